"""A canary in the environment and in addresses: after a launch it is in no file, no line and no argument.

The launch is a real one, on real Ray, so that its processes' arguments and sockets are looked at as well.
"""

import ipaddress
import json
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from command_line import ask, write_ensemble
from oracle import child_environment

from orchestrator.cli.streams import Streams
from orchestrator.config.composition import compose
from orchestrator.doctor.facts import ask as ask_doctor
from orchestrator.text import complaint, redact
from orchestrator.tracking import mlflow_store as tracking_store, probe
from workers.errors import ConfigError

pytestmark = pytest.mark.timeout(600)
CANARY = "canary0f5e7"
GIVE_UP_S = 300.0
SMALL = (
    *("ensemble=solo", "cluster.cpus_per_member=1", "precision=fp32", "optimizer.batch_size=400", "model.width=0.1"),
    *("model.fc_units=32", "ensemble.stages.train.epochs=1"),
)
ENVIRONMENT = {
    "MLFLOW_TRACKING_USERNAME": "me",
    "MLFLOW_TRACKING_PASSWORD": f"{CANARY}-password",
    "MLFLOW_TRACKING_TOKEN": f"{CANARY}-token",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}-aws",
    "HTTPS_PROXY": f"http://me:{CANARY}-proxy@127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
}


def _holding(folder):
    """Files below a folder in which the canary is; names count too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if CANARY.encode() in path.read_bytes() or CANARY in str(path)]


@dataclass
class Watched:
    """What a launch's processes were seen doing."""

    code: int = -1
    said: str = ""
    arguments: set[str] = field(default_factory=set)
    listening: set[str] = field(default_factory=set)
    folder_modes: set[int] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)


def _look(process, seen):
    for child in process.children(recursive=True):
        with suppress(psutil.Error, OSError):
            words = child.cmdline()
            seen.arguments.add(" ".join(words))
            seen.tokens.add(child.environ().get("RAY_AUTH_TOKEN", ""))
            seen.listening |= {
                one.laddr.ip.removeprefix("::ffff:")
                for one in child.net_connections("tcp")
                if one.status == psutil.CONN_LISTEN
            }
    for folder in set(re.findall(r"/[^\s=]*/septet-ray-[^/\s]+", " ".join(seen.arguments))):
        with suppress(OSError):
            seen.folder_modes.add(Path(folder).stat().st_mode & 0o777)


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A launch from a folder with modules that would leave a mark, were they imported."""
    folder = tmp_path_factory.mktemp("canary")
    groups = write_ensemble(folder / "groups", "solo", "solo")
    here = folder / "here"
    (here / "workers").mkdir(parents=True)
    marker = folder / "marker"
    for name in ("torch.py", "numpy.py", "mlflow.py", "workers/__init__.py"):
        (here / name).write_text(f"import os\nos.makedirs({str(marker)!r}, exist_ok=True)\n")
    words = ["launch", "--debug", "--config-dir", str(groups), "run_dir=run", "datasets.store=store", *SMALL]
    words += ["tracking.required=false", "tracking.uri=${oc.env:SEPTET_STORE}"]
    environment = {**child_environment(), **ENVIRONMENT, "SEPTET_STORE": f"http://me:{CANARY}-uri@127.0.0.1:9"}
    seen = Watched()
    command = [sys.executable, "-P", "-m", "orchestrator.cli.program", *words]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=here, env=environment, stdout=output, stderr=subprocess.STDOUT)
        give_up = time.monotonic() + GIVE_UP_S
        try:
            while process.poll() is None and time.monotonic() < give_up:
                with suppress(psutil.Error):
                    _look(psutil.Process(process.pid), seen)
                time.sleep(0.3)
        finally:
            process.terminate()
            seen.code = process.wait()
        output.seek(0)
        seen.said = output.read()
    yield folder, seen


@pytest.mark.slow
def test_canary_is_in_no_file_no_line_and_no_argument(launched):
    folder, seen = launched
    assert seen.code == 0, seen.said
    assert (folder / "here" / "run" / "submission").is_dir()
    assert _holding(folder) == []
    assert CANARY not in seen.said
    assert "127.0.0.1:9" in seen.said, "the store with the canary in its address was never spoken of"
    assert seen.arguments and not any(CANARY in words for words in seen.arguments)
    assert not (folder / "marker").exists(), "a module of the working directory was imported"
    assert "${oc.env:SEPTET_STORE}" in (folder / "here" / "run" / "config.yaml").read_text()


@pytest.mark.slow
def test_local_ray_listens_on_loopback_alone_behind_a_token(launched):
    _, seen = launched
    tokens = seen.tokens - {""}
    assert seen.listening, "nothing was seen listening: the look itself is broken"
    assert all(ipaddress.ip_address(address).is_loopback for address in seen.listening), seen.listening
    assert len(tokens) == 1 and len(tokens.copy().pop()) == 64
    assert not any(token in words for token in tokens for words in seen.arguments)
    assert seen.folder_modes == {0o700}
    assert any("raylet" in words for words in seen.arguments)


@pytest.fixture
def secretive(tmp_path, monkeypatch):
    """An empty working directory, with the canary in the environment."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=${oc.env:AWS_SECRET_ACCESS_KEY}",
        "optimizer.lr='${oc.decode:${oc.env:AWS_SECRET_ACCESS_KEY}}'",
        "datasets.target.root=s3://bucket/${oc.env:AWS_SECRET_ACCESS_KEY}",
        "datasets.target.root='${oc.env:${oc.env:NAME}}'",
    ],
)
def test_reference_that_would_write_a_secret_down_is_refused(override, secretive, capsys, monkeypatch):
    monkeypatch.setenv("NAME", "AWS_SECRET_ACCESS_KEY")
    answer = ask(capsys, "launch", "--debug", "dataset@datasets.target=folder", "ensemble=five", override)
    assert answer.code == 2
    assert "secret" in answer.err
    assert CANARY not in answer.said
    assert not list(secretive.iterdir())


@pytest.mark.parametrize("uri", [f"http://me:p@{CANARY}@127.0.0.1:9", f"nonsense://me:{CANARY}@127.0.0.1:9"])
def test_password_of_a_tracking_address_is_in_no_error_and_no_traceback(uri, secretive):
    with pytest.raises(ConfigError) as caught:
        probe(uri)
    assert CANARY not in str(caught.value)
    assert CANARY not in complaint("".join(traceback.format_exception(caught.value)))


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["launch", "plan"])
def test_password_of_an_address_is_in_no_output(verb, secretive, capsys):
    uri = f"tracking.uri=http://me:{CANARY}@127.0.0.1:9"
    small = ("model.width=0.05", "model.fc_units=16", "ensemble=five", "cluster.cpus_per_member=1", "precision=fp32")
    answer = ask(capsys, verb, "--debug", *(["--json"] if verb == "plan" else []), uri, *small)
    assert answer.code == (0 if verb == "plan" else 2)
    assert CANARY not in answer.said
    assert "***@127.0.0.1:9" in answer.err or verb == "plan"
    assert not list(secretive.rglob("run.json"))


def test_doctor_says_what_store_does_not_answer_without_its_password(secretive):
    answer = str(ask_doctor(lambda: probe(f"http://me:{CANARY}@127.0.0.1:9")))
    assert "127.0.0.1:9" in answer and CANARY not in answer


def test_password_of_a_tracking_address_is_not_kept_in_config_yaml(secretive):
    written = compose([f"tracking.uri=http://me:{CANARY}@127.0.0.1:9"])
    assert written.tracking.uri == f"http://me:{CANARY}@127.0.0.1:9"
    assert CANARY not in written.yaml and "http://***@127.0.0.1:9" in written.yaml


def test_mlflow_database_and_artifacts_hold_no_canary(secretive, tmp_path):
    store = tracking_store.Store(f"sqlite:///{secretive}/mlflow.db", "digits", "run-uuid")
    store.open()
    about = tracking_store.About("first", {"tracking": store.ids["uri"]}, {})
    store.ensure(tracking_store.RunKey(), about, 1000)
    (tmp_path / "page.html").write_text("nothing")
    store.add_artifact(tracking_store.RunKey(), tmp_path / "page.html", "report")
    with closing(sqlite3.connect(secretive / "mlflow.db")) as connection:
        assert connection.execute("select count(*) from runs").fetchone() == (1,)
        dump = "\n".join(connection.iterdump())
    assert CANARY not in dump
    assert _holding(secretive) == []


@pytest.mark.parametrize(
    "text",
    [
        f"cannot reach http://me:{CANARY}@host:5000/api",
        f"http://me:a@{CANARY}@host",
        f"(psycopg2) postgresql+psycopg2://me:{CANARY}@host/db?connect_timeout=3",
        f"s3://bucket?token={CANARY}",
        f"https://host/x?X-Amz-Signature={CANARY}&a=1",
        f"Authorization: Bearer {CANARY}",
    ],
)
def test_canary_in_other_peoples_messages_is_hidden(text):
    assert CANARY not in redact(text)


def test_value_of_a_secret_variable_is_hidden_wherever_it_stands():
    environment = {"DB_PASSWORD": "hunter2hunter2", "HOME": "/home/somebody", "API_KEY": "abc"}
    assert complaint("x=hunter2hunter2 in /home/somebody abc", environment) == "x=*** in /home/somebody abc"


def test_traceback_shows_no_canary(secretive, capsys, monkeypatch):
    def fails(*_):
        raise RuntimeError(f"no answer from http://me:{CANARY}@host with {ENVIRONMENT['AWS_SECRET_ACCESS_KEY']}")

    monkeypatch.setattr("orchestrator.config.compose", fails)
    answer = ask(capsys, "plan", "--debug")
    assert answer.code == 1
    assert "Traceback" in answer.err and CANARY not in answer.err


def test_json_documents_are_json_whatever_names_hold(capsys):
    name = "\x1b]0;owned\x07\x9b\x7f\u202e"
    Streams(sys.stdout, sys.stderr).answer({"class": name}, [])
    said = capsys.readouterr().out
    assert json.loads(said) == {"class": name}
    assert not set(name) & {"\x1b", "\x07", "\x9b", "\x7f", "\u202e"} & set(said)
