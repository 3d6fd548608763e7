"""The tracking database locked, or its disk full: a launch ends as ever, and the store is whole once it is free.

Every fault here was really met: a lock is asked for by a second connection, a full disk takes no further block.
"""

import logging
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager

import pytest
from flushed import flushed
from oracle import fill_disk, wait_for
from tracked_run import FakeRun, check_complete, finish_when_sent, launch_again, stop_and_join

pytestmark = pytest.mark.timeout(300)


@contextmanager
def locked(database):
    """Another process holds the database exclusively; it is seen to."""
    script = (
        "import sqlite3, sys; held = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "held.execute('BEGIN EXCLUSIVE'); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with closing(sqlite3.connect(database, timeout=0)) as asking, pytest.raises(sqlite3.OperationalError):
            asking.execute("SELECT count(*) FROM runs")
        yield
    finally:
        holder.communicate()


@pytest.mark.slow
def test_database_locked_for_a_while_costs_no_point(server, tmp_path):
    from mlflow import MlflowClient

    run = FakeRun(tmp_path / "run", server.another_store(tmp_path / "own"))
    tracker = run.open()
    with locked(tmp_path / "own" / "mlflow.db"):
        run.train(tracker)
        assert flushed(tracker, 0.0) == 30
    run.finish(tracker)
    check_complete(MlflowClient(run.uri), run)


def test_database_locked_to_the_end_is_filled_later(server, tmp_path, impatient, caplog):
    from mlflow import MlflowClient

    run = FakeRun(tmp_path / "run", server.another_store(tmp_path / "own"))
    tracker = run.open()
    with locked(tmp_path / "own" / "mlflow.db"), caplog.at_level(logging.WARNING):
        run.train(tracker)
        run.finish(tracker)
    assert "lacks the end of this run and 30 metric values" in caplog.text
    stop_and_join(tracker)
    launch_again(run)
    check_complete(MlflowClient(run.uri), run)


def test_full_disk_of_the_database_costs_no_point(server, tmp_path, small_disk, impatient, caplog):
    from mlflow import MlflowClient

    run = FakeRun(tmp_path / "run", server.another_store(small_disk))
    tracker = run.open()
    ballast = small_disk / "ballast"
    fill_disk(ballast)
    with caplog.at_level(logging.WARNING):
        run.train(tracker)
        wait_for(lambda: "full" in caplog.text)
    assert "full" in caplog.text
    ballast.unlink()
    finish_when_sent(run, tracker)
    check_complete(MlflowClient(run.uri), run)
