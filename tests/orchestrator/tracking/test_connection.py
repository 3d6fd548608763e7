"""MLflow's database: made once whoever comes, whole or not at all, in folders of any name; a broken one is told."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from at_once import at_once

from orchestrator.config.composition import compose
from orchestrator.tracking.connection import connect, make_database
from orchestrator.tracking.mlflow_store import Store
from orchestrator.tracking.probing import probe
from orchestrator.tracking.sender import explain
from workers.errors import ConfigError

KILLED = """
import os, signal, sys
from orchestrator.tracking import connection
def die(path):
    os.kill(os.getpid(), signal.SIGKILL)
connection.fsync = die
connection.make_database(sys.argv[1])
"""


def _open(folder, start, outcome):
    os.chdir(folder)
    store = Store(compose([]).tracking.uri, "same", "a run")
    start.wait(120)
    store.open()
    outcome.put(store.ids["experiment_id"])


@pytest.mark.slow
def test_first_launches_at_once_in_a_folder_of_any_name_share_one_whole_database(tmp_path):
    folder = tmp_path / "a?b%20 c"
    folder.mkdir()
    assert len(set(at_once(_open, [(folder,)] * 3))) == 1
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]
    with sqlite3.connect(folder / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM experiments WHERE name = 'same'").fetchone() == (1,)


@pytest.mark.slow
def test_kill_while_it_is_made_leaves_no_database_and_the_next_makes_it(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    killed = subprocess.run([sys.executable, "-c", KILLED, uri], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / ".tmp-mlflow.db").exists() and not (tmp_path / "mlflow.db").exists()
    make_database(uri)
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    connect(uri)


def test_database_that_another_program_made_in_part_is_told_with_what_to_do(tmp_path):
    path = tmp_path / "half.db"
    make_database(f"sqlite:///{path}")
    with sqlite3.connect(path) as database:
        # As a kill in the midst of MLflow's migrations leaves it.
        database.execute("DROP TABLE tags")
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    broken = r"half\.db is broken \(table experiment_tags already exists\), perhaps.*move it away, then run it again"
    with pytest.raises(ConfigError, match=broken):
        connect(f"sqlite:///{path}")


def test_experiment_that_another_launch_made_meanwhile_is_used(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    found = MlflowClient.get_experiment_by_name
    other = Store(uri, "same", "another")

    def late(client, name):
        """Nothing is there when this one looks first; then the other launch makes it."""
        monkeypatch.setattr(MlflowClient, "get_experiment_by_name", found)
        other.open()
        return

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", late)
    store = Store(uri, "same", "one")
    store.open()
    assert store.ids["experiment_id"] == other.ids["experiment_id"]


def test_line_of_mlflow_s_own_is_shown_to_its_end():
    from mlflow import MlflowException

    line = f"{'The schema is of an older version. ' * 9}Run `mlflow db upgrade`."
    assert explain(MlflowException(line)) == line
    assert explain(OSError("x" * 200)).endswith("...")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("451aebb31d03", r"mlflow db upgrade 'sqlite:///\S+mlflow\.db'"),
        ("ffffffffffff", "pip install --upgrade mlflow"),
    ],
    ids=["older", "newer"],
)
def test_tables_of_another_mlflow_are_told_before_a_run_starts(version, told, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    make_database(uri)
    probe(uri)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (version,))
    for ask in (probe, connect):
        with pytest.raises(ConfigError, match=told):
            ask(uri)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("127.0.0.1:9", "http://127.0.0.1:9"),
        ("localhost:9", "http://localhost:9"),
        ("/nowhere/mlflow.db", "sqlite:////nowhere/mlflow.db"),
        ("file:///nowhere/mlflow.db", "sqlite:////nowhere/mlflow.db"),
    ],
)
def test_address_that_mlflow_takes_for_a_folder_is_told_with_what_is_meant(written, meant):
    with pytest.raises(ConfigError, match=f"did you mean tracking.uri={meant}\\?"):
        probe(written, timeout_s=1)


def test_folder_whose_name_is_not_utf_8_is_told_in_one_line(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9")
    Path(folder).mkdir()
    with pytest.raises(ConfigError, match="cannot be made"):
        make_database(f"sqlite:///{folder}/mlflow.db")
