"""The real MLflow server on a real store."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request

import psutil
import pytest

from orchestrator.tracking.ui import Target, find_target, open_ui, page, serving
from workers.errors import ConfigError, DataError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A store with one run that has an artifact, as the tracker makes it."""
    from orchestrator.tracking.mlflow_store import About, RunKey, Store

    folder = tmp_path_factory.mktemp("ui")
    uri = f"sqlite:///{folder}/mlflow.db"
    store = Store(uri, "digits", "run-uuid")
    store.open()
    store.ensure(RunKey(), About("first", {}, {}), 1000)
    (folder / "table.md").write_text("| 7 CNNs* |\n")
    store.add_artifact(RunKey(), folder / "table.md", "report")
    return Target(uri, store.ids["experiment_id"], store.ids["run_id"])


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())


def is_open(address):
    parts = urllib.parse.urlsplit(address)
    with socket.socket() as caller:
        return caller.connect_ex((parts.hostname, parts.port)) == 0


def test_server_shows_the_runs_and_artifacts_and_ends_with_the_block(target):
    with serving(target.uri) as server:
        body: dict[str, object] = {"experiment_ids": [target.experiment_id]}
        found = json.loads(ask(f"{server.address}/api/2.0/mlflow/runs/search", body))
        assert [run["info"]["run_id"] for run in found["runs"]] == [target.run_id]
        artifact = f"{server.address}/get-artifact?path=report/table.md&run_uuid={target.run_id}"
        assert ask(artifact) == b"| 7 CNNs* |\n"
        assert b"<html" in ask(server.address)
        processes = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
        assert not any("sqlite:" in word for process in processes for word in process.cmdline())
    assert not is_open(server.address)
    assert not any(process.is_running() for process in processes)


def test_interrupt_ends_the_server_cleanly_though_its_port_was_taken(target):
    # A shell that puts tests into the background has them, and their children, ignore SIGINT.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from orchestrator.tracking.ui import Target, open_ui; "
        "open_ui(Target(*sys.argv[1:4]), sys.stdout, port=int(sys.argv[4]))"
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = [sys.executable, "-c", program, target.uri, target.experiment_id, target.run_id, str(port)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
            lines = [process.stdout.readline() for _ in range(3)]
            address = lines[1].split()[-1]
            assert address == page(address.partition("/#")[0], target)
            assert is_open(address)
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(60) == 0
    assert urllib.parse.urlsplit(address).port != port
    assert not is_open(address)


def test_server_that_cannot_start_is_said_in_one_line(tmp_path):
    (tmp_path / "broken.db").write_text("no database" * 1000)
    with pytest.raises(ConfigError, match="does not start") as caught, serving(f"sqlite:///{tmp_path}/broken.db"):
        pass
    assert "\n" not in str(caught.value)


def test_store_that_is_a_server_is_only_named():
    out = io.StringIO()
    open_ui(Target("https://me:secret@tracking.example/", "3", "r", "abc"), out)
    training = "https://tracking.example/#/experiments/3/runs?workflowType=machine_learning"
    assert out.getvalue() == f"MLflow UI: {training}&compareRunsMode=CHART&viewStateShareKey=abc\n"
    assert page("https://tracking.example", Target("sqlite:///x.db", "3", "r")) == training
    assert page("http://127.0.0.1:5000", Target("sqlite:///x.db")) == "http://127.0.0.1:5000"


def test_target_of_a_missing_store_or_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="`septet launch` first"):
        find_target(None, f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(DataError):
        find_target(tmp_path / "absent", "sqlite:///mlflow.db")
