"""The sender alone, on stores made of functions."""

import logging
import threading
import time
from collections.abc import Sequence

import pytest

from orchestrator.tracking.mlflow_store import Point, RunKey
from orchestrator.tracking.sender import Pace, Sender, Task

QUICK = Pace(linger_s=0.02, first_pause_s=0.02, longest_pause_s=0.05, sample_s=60)
KEY = RunKey("base", "target")


class Refused(Exception):
    """As MLflow says that a call would fail again."""

    error_code = "INVALID_PARAMETER_VALUE"


def point(step: int) -> Point:
    return Point(KEY, step, step * 1000, {"lr": 0.1})


class Memory:
    """A store that keeps what it gets, fails while `away`, and refuses the steps in `refused`."""

    def __init__(self, refused: Sequence[int] = ()) -> None:
        self.steps: list[int] = []
        self.batches: list[int] = []
        self.away = False
        self.refused = frozenset(refused)

    def deliver(self, points: Sequence[Point]) -> None:
        if self.away:
            raise OSError("Connection refused")
        if any(each.step in self.refused for each in points):
            raise Refused("no")
        self.batches.append(len(points))
        self.steps += [each.step for each in points]


def test_points_arrive_in_order_and_together() -> None:
    memory = Memory()
    sender = Sender(memory.deliver, "there", pace=Pace(linger_s=0.2, first_pause_s=0.02))
    for step in range(50):
        sender.add(point(step))
    assert sender.flush(5) == 0
    assert memory.steps == list(range(50))
    assert len(memory.batches) <= 3
    sender.stop()


def test_work_stays_in_order_through_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory()
    memory.away = True
    sender = Sender(memory.deliver, "there", pace=QUICK)
    order: list[str] = []
    with caplog.at_level(logging.WARNING):
        sender.add(point(1))
        sender.submit(Task(lambda: order.append(f"end after {memory.steps}"), "the end"))
        sender.add(point(2))
        assert sender.flush(0.3) == 2
    memory.away = False
    assert sender.flush(5) == 0
    assert order == ["end after [1]"]
    assert memory.steps == [1, 2]
    assert len(caplog.records) == 1
    sender.stop()


def test_refused_point_costs_no_other_point() -> None:
    memory = Memory(refused=(3,))
    sender = Sender(memory.deliver, "there", pace=QUICK)
    for step in range(6):
        sender.add(point(step))
    assert sender.flush(5) == 1
    assert memory.steps == [0, 1, 2, 4, 5]
    sender.stop()


def test_task_with_bounded_attempts_gives_way_to_the_next() -> None:
    tried: list[float] = []
    done = threading.Event()

    def upload() -> None:
        tried.append(time.monotonic())
        raise RuntimeError("no credentials")

    sender = Sender(Memory().deliver, "there", pace=QUICK)
    sender.submit(Task(upload, "artifact a", attempts=3))
    sender.submit(Task(done.set, "the end"))
    sender.flush(5)
    assert done.is_set()
    assert len(tried) == 3
    sender.stop()


def test_vital_task_is_tried_until_it_is_done() -> None:
    answers = [Refused("deleted"), OSError("away"), None]
    done = threading.Event()

    def create() -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        done.set()

    sender = Sender(Memory().deliver, "there", pace=QUICK)
    sender.submit(Task(create, "the run", vital=True))
    assert sender.flush(5) == 0
    assert done.is_set()
    sender.stop()


def test_hanging_store_blocks_no_caller() -> None:
    never = threading.Event()
    sender = Sender(Memory().deliver, "there", pace=QUICK)
    sender.submit(Task(lambda: bool(never.wait(30)) and None, "hanging"))
    start = time.monotonic()
    for step in range(1000):
        sender.add(point(step))
    assert sender.flush(0.2) == 1000
    assert time.monotonic() - start < 2
    sender.stop()
    never.set()
