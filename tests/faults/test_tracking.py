"""The tracking server away, slow or wrong: a launch ends as ever, and the store is whole once it is back.

Every fault here was really met: the proxy counts what it did.
"""

import logging
import time

import pytest
from flushed import flushed
from oracle import wait_for
from tracked_run import (
    GIVE_UP_S,
    REQUEST_S,
    FakeRun,
    check_complete,
    finish_when_sent,
    found_runs,
    key_of,
    launch_again,
    stop_and_join,
)

from benchmarks.misbehaving_proxy import Fault
from orchestrator.plan.model import StageRef
from orchestrator.tracking.sender import Sender

pytestmark = pytest.mark.timeout(300)


# Six requests meet the fault: the first runs, their parameters and tags, the first points, a status.
FAULTS = [(Fault.error, "", 6), (Fault.drop_reply, "", 12)]
MORE_FAULTS = [
    *((Fault.absent, "", 6), (Fault.reset, "", 6), (Fault.cut, "", 6), (Fault.hang, "", 2)),
    *((Fault.drop_reply, "runs/create", 3), (Fault.drop_reply, "log-batch", 4)),
]


def soak_only(*values):
    return pytest.param(*values, marks=pytest.mark.soak)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "only", "times"), [*FAULTS, *(soak_only(*each) for each in MORE_FAULTS)])
def test_fault_that_passes_while_a_launch_runs_leaves_no_gap_and_no_duplicate(
    server, proxy, tmp_path, impatient, fault, only, times
):
    run = FakeRun(tmp_path, proxy.address)
    tracker = run.open()
    proxy.break_it(fault, only, left=times)
    run.train(tracker)
    finish_when_sent(run, tracker)
    assert proxy.injected[fault] == times
    check_complete(server.client, run)


@pytest.mark.slow
def test_creation_that_arrives_late_is_undone(server, proxy, tmp_path, impatient):
    """The creation of a member's run sits in the proxy until another has been made in its place."""
    run = FakeRun(tmp_path, proxy.address)
    tracker = run.open()
    proxy.break_it(Fault.slow, "runs/create", left=1, delay_s=3.0 * REQUEST_S)
    run.train(tracker)
    assert flushed(tracker, GIVE_UP_S) == 0
    wait_for(lambda: len(found_runs(server.client, run.run_id)) == 7)  # six are the plan's
    assert proxy.injected[Fault.slow] == 1
    finish_when_sent(run, tracker)
    check_complete(server.client, run)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.error, *map(soak_only, (Fault.hang, Fault.slow, Fault.drop_reply))])
def test_store_lost_midway_and_for_good_is_filled_by_the_next_launch(server, proxy, tmp_path, impatient, fault, caplog):
    run = FakeRun(tmp_path, proxy.address)
    tracker = run.open()
    first = StageRef("base", "train")
    tracker.stage_started(first)
    assert flushed(tracker, GIVE_UP_S) == 0
    assert {found.info.status for found in found_runs(server.client, run.run_id)} == {"RUNNING"}
    proxy.break_it(fault, delay_s=2.0 * REQUEST_S)
    with caplog.at_level(logging.WARNING):
        run.train(tracker)
        run.finish(tracker)
    assert proxy.injected[fault] > 0
    assert "lacks the end of this run" in caplog.text
    stop_and_join(tracker)
    time_out = time.monotonic() + 3.0 * REQUEST_S
    wait_for(lambda: time.monotonic() > time_out)  # what the proxy still holds back has arrived
    proxy.restore()
    launch_again(run)
    check_complete(server.client, run)


def test_runs_of_a_killed_driver_are_closed_and_continued(server, proxy, tmp_path):
    run = FakeRun(tmp_path, proxy.address)
    tracker = run.open()
    tracker.stage_started(StageRef("base", "train"))
    tracker.stage_started(StageRef("wide", "pre"))
    assert flushed(tracker, GIVE_UP_S) == 0
    stop_and_join(tracker)
    before = {key_of(found): found.info.run_id for found in found_runs(server.client, run.run_id)}
    second = run.open()
    assert flushed(second, GIVE_UP_S) == 0
    left = {key_of(found): found.info.status for found in found_runs(server.client, run.run_id)}
    assert left == {"/": "RUNNING", "base/": "KILLED", "base/train": "KILLED", "wide/": "KILLED", "wide/pre": "KILLED"}
    run.train(second)
    run.finish(second)
    check_complete(server.client, run)
    after = {key_of(found): found.info.run_id for found in found_runs(server.client, run.run_id)}
    assert {key: after[key] for key in before} == before


def test_another_store_gets_the_whole_history(server, proxy, tmp_path):
    from mlflow import MlflowClient

    run = FakeRun(tmp_path / "run", proxy.address)
    run.launch()
    run.uri = server.another_store(tmp_path / "other")
    run.launch()
    check_complete(server.client, run)
    check_complete(MlflowClient(run.uri), run)


def test_interrupt_in_the_wait_at_the_end_ends_it_and_says_what_is_lacking(
    proxy, tmp_path, impatient, monkeypatch, caplog
):
    run = FakeRun(tmp_path, proxy.address)
    tracker = run.open()
    proxy.break_it(Fault.hang)
    run.train(tracker)
    flush = Sender.flush

    def interrupted(self, timeout_s):
        if timeout_s:
            raise KeyboardInterrupt
        return flush(self, timeout_s)

    monkeypatch.setattr(Sender, "flush", interrupted)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        run.finish(tracker)
    assert "lacks the end of this run and 60 metric values" in caplog.text
    stop_and_join(tracker)
