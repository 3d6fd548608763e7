"""Members without a machine: no deadline runs, the ledger says that they wait, and `cluster.wait_s` ends it."""

import pytest
from driver_run import Run
from fake_stages import plan_of
from local_actors import LocalActors

from orchestrator.execution.driver import Driver
from orchestrator.execution.waiting import _STARTS_S, MachineWait
from orchestrator.execution.watchdog import Deadlines
from orchestrator.plan.model import StageRef, TrainJob
from orchestrator.run.ledger import AttemptEnd, State
from workers.errors import ConfigError


def test_wait_is_said_once_each_time_and_ends_after_its_time(caplog):
    now = [0.0]
    wait = MachineWait(60.0, lambda: now[0])
    for now[0] in (0.0, _STARTS_S, _STARTS_S + 1, _STARTS_S + 60):
        wait.look(waits=True)
    assert caplog.text.count("waiting for a machine") == 1
    wait.look(waits=False)
    for now[0] in (100.0, 100.0 + _STARTS_S + 60):
        wait.look(waits=True)
    assert caplog.text.count("waiting for a machine") == 2
    now[0] += 1
    with pytest.raises(ConfigError, match=r"no member has had a machine for 60 s \(cluster.wait_s\); checkpoints"):
        wait.look(waits=True)


def test_wait_without_a_limit_never_ends():
    now = [0.0]
    wait = MachineWait(None, lambda: now[0])
    wait.look(waits=True)
    now[0] = 1e9
    wait.look(waits=True)


class Busy(LocalActors):
    """A cluster at an address, on which members get a machine only after some looks, or never."""

    is_local = False

    def __init__(self, num_slots, duties, looks):
        super().__init__(num_slots, duties)
        self.looks = looks

    def where(self, member):
        self.looks -= 1
        return super().where(member) if self.looks < 0 else None

    def poll(self, timeout_s):
        return super().poll(0.01) if self.looks < 0 else ()

    def stop(self, member):
        self.looks = -1
        super().stop(member)


def _driver(run: Run, *, wait_s: float | None = None) -> Driver:
    """The driver of a launch whose clock leaps by an hour at each look."""
    hours = iter(range(10**6))
    driver = run.driver()
    driver._deadlines = Deadlines(60.0, lambda: 3600.0 * next(hours))
    driver._wait = MachineWait(wait_s, lambda: 3600.0 * next(hours))
    assert not driver.take_stock()
    return driver


def test_member_without_a_machine_has_no_deadline_and_is_shown_as_waiting(tmp_path):
    run = Run(tmp_path, plan_of({"a": {"train": None}}), num_slots=1)
    states = []
    driver, cluster = _driver(run), Busy(1, run.fakes.duties, looks=5)
    ref = StageRef("a", "train")

    def show():
        states.append(run.ledger.entry(TrainJob(ref)).state)

    assert driver.run(cluster, lambda: False, show)
    assert states[:4] == [State.waiting] * 4
    assert states[-1] is State.done
    assert run.outcomes("a/train") == [AttemptEnd.done], "it was taken for hung"


def test_wait_that_is_over_stops_the_launch(tmp_path):
    run = Run(tmp_path, plan_of({"a": {"train": None}}), num_slots=1)
    driver, cluster = _driver(run, wait_s=60.0), Busy(1, run.fakes.duties, looks=10**6)
    with pytest.raises(ConfigError, match=r"cluster\.wait_s"):
        driver.run(cluster, lambda: False, lambda: None)
    assert run.ledger.entry(TrainJob(StageRef("a", "train"))).state in (State.stopped, State.done)
