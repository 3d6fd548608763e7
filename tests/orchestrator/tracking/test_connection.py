"""MLflow's database: made once whoever comes, whole or not at all, in folders of any name; a broken one is told."""

import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from at_once import at_once

from orchestrator.config.composition import compose
from orchestrator.tracking.connection import connect, make_database
from orchestrator.tracking.mlflow_store import Store
from orchestrator.tracking.sender import explain
from workers.errors import ConfigError

KILLED = """
import os, signal, sys
from mlflow.store.db import utils
from orchestrator.tracking.connection import make_database
def die(engine):
    os.kill(os.getpid(), signal.SIGKILL)
utils._upgrade_db = die
make_database(sys.argv[1])
"""


def _open(folder, start, outcome):
    os.chdir(folder)
    store = Store(compose([]).tracking.uri, "same", "a run")
    start.wait(120)
    store.open()
    outcome.put(store.ids["experiment_id"])


def test_first_launches_at_once_in_a_folder_of_any_name_share_one_whole_database(tmp_path):
    folder = tmp_path / "a?b%20 c"
    folder.mkdir()
    assert len(set(at_once(_open, [(folder,)] * 3))) == 1
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]
    with sqlite3.connect(folder / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM experiments WHERE name = 'same'").fetchone() == (1,)


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
