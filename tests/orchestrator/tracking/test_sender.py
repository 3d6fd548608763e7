"""The sender alone, on stores made of functions."""

import logging
import threading
from dataclasses import dataclass, field

import pytest

from orchestrator.tracking.mlflow_store import Point, RunKey
from orchestrator.tracking.sender import Pace, Sender, Task

QUICK = Pace(linger_s=0.02, first_pause_s=0.02, longest_pause_s=0.05, sample_s=60)
LONG_S = 60
KEY = RunKey("base", "target")


class Refused(Exception):
    """As MLflow says that a call would fail again."""

    error_code = "INVALID_PARAMETER_VALUE"


def point(step):
    return Point(KEY, step, step * 1000, {"lr": 0.1})


@dataclass
class Memory:
    """A store that keeps what it gets, fails while `away`, and refuses the steps in `refused`."""

    steps: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    away: bool = False
    refused: frozenset[int] = frozenset()

    def deliver(self, points):
        if self.away:
            raise OSError("Connection refused")
        if any(each.step in self.refused for each in points):
            raise Refused("no")
        self.batches.append(len(points))
        self.steps += [each.step for each in points]


@pytest.fixture
def memory():
    return Memory()


@pytest.fixture
def sender(memory):
    sender = Sender(memory.deliver, "there", pace=QUICK)
    yield sender
    sender.stop()


def test_points_arrive_in_order_and_together(memory):
    sender = Sender(memory.deliver, "there", pace=Pace(linger_s=LONG_S))
    for step in range(50):
        sender.add(point(step))
    assert sender.flush(LONG_S) == 0
    assert memory.steps == list(range(50))
    assert len(memory.batches) == 1
    sender.stop()


def test_work_stays_in_order_through_an_outage(memory, sender, caplog):
    memory.away = True
    order: list[str] = []
    with caplog.at_level(logging.WARNING):
        sender.add(point(1))
        sender.submit(Task(lambda: order.append(f"end after {memory.steps}"), "the end"))
        sender.add(point(2))
        assert sender.flush(0.3) == 2
    memory.away = False
    assert sender.flush(LONG_S) == 0
    assert order == ["end after [1]"]
    assert memory.steps == [1, 2]
    assert len(caplog.records) == 1


def test_refused_point_costs_no_other_point(memory, sender):
    memory.refused = frozenset({3})
    for step in range(6):
        sender.add(point(step))
    assert sender.flush(LONG_S) == 1
    assert memory.steps == [0, 1, 2, 4, 5]


def failing(*errors, then=lambda: None):
    """Raises one error a call; then all goes well."""
    left = list(errors)

    def work():
        if left:
            raise left.pop(0)
        then()

    return work


def test_task_with_bounded_attempts_gives_way_to_the_next(sender):
    errors = [RuntimeError("no credentials") for _ in range(9)]
    done = threading.Event()
    sender.submit(Task(failing(*errors), "artifact a", attempts=3))
    sender.submit(Task(done.set, "the end"))
    sender.flush(LONG_S)
    assert done.is_set()
    assert sum(error.__traceback__ is not None for error in errors) == 3


def test_vital_task_is_tried_until_it_is_done(sender):
    done = threading.Event()
    sender.submit(Task(failing(Refused("deleted"), OSError("away"), then=done.set), "the run", vital=True))
    assert sender.flush(LONG_S) == 0
    assert done.is_set()


def test_hanging_store_blocks_no_caller(sender):
    answer = threading.Event()
    sender.submit(Task(lambda: bool(answer.wait(LONG_S)) and None, "hanging"))
    for step in range(1000):
        sender.add(point(step))
    assert sender.flush(0.2) == 1000
    assert sender.num_waiting == 1001, "the store answered meanwhile: a caller waited for it"
    answer.set()
