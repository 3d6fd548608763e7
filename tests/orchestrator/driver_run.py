"""A run directory whose launches train nothing, on threads, and what tests of the driver look at."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from book_in_memory import book_in_memory
from fake_stages import EVERY, FakeStages
from local_actors import LocalActors
from no_tracker import NoTracker

from orchestrator.config.schema import AdmitConfig
from orchestrator.execution.driver import Driver
from orchestrator.execution.jobs import Work
from orchestrator.plan.model import Plan, StageRef
from orchestrator.run import ledger as ledger_module
from orchestrator.run.digests import Book
from orchestrator.run.ledger import AttemptEnd, Budgets, Contents, Ledger, read_ledger
from orchestrator.run.paths import RunPaths
from workers.errors import MemberFailed
from workers.protocol import Numerics
from workers.settings.training import Crops, KeptCheckpoint
from workers.storage import atomic

SEVEN = {
    **{f"base{number}": {"train": None} for number in range(5)},
    **{f"wide{number}": {"pre": None, "fine": f"wide{number}/pre"} for number in range(2)},
}


class Killed(BaseException):
    """The driver is gone."""


class RecordingTracker(NoTracker):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.points: list[tuple[str, int]] = []
        self.ended: list[tuple[str, str]] = []
        self.tags: list[tuple[str, str, str]] = []
        self.places: dict[str, str] = {}

    def tag(self, ref: StageRef, key: str, value: str) -> None:
        if key == "septet.node":
            self.places[str(ref)] = value
        else:
            self.tags.append((str(ref), key, value))

    def log(self, ref: StageRef, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        self.points.append((str(ref), step))

    def stage_finished(self, ref: StageRef, status: str, tags: Mapping[str, str] | None = None) -> None:
        self.ended.append((str(ref), str(status)))


@dataclass
class Run:
    """A run directory, and launches into it."""

    root: Path
    plan: Plan
    fakes: FakeStages = field(default_factory=FakeStages)
    budgets: Budgets = field(default_factory=lambda: Budgets(max_losses=20, max_failures=3))
    num_slots: int = 2
    digest: str = "d1"
    tracker: RecordingTracker = field(default_factory=RecordingTracker)
    book: Book = field(default_factory=book_in_memory)
    splits: tuple[str, ...] = ("val", "test")
    admit: AdmitConfig = field(default_factory=AdmitConfig)
    without: tuple[str, ...] = ()
    hours: float | None = None
    clock: Callable[[], float] = time.time
    show: Callable[[], None] = lambda: None

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.root)

    @property
    def ledger(self) -> Contents:
        return read_ledger(self.paths.ledger)

    def launch(self, stop_when: str = "") -> bool:
        """Runs to the end; `stop_when` names a stage whose start brings the request to stop."""
        self.fakes.started.clear()
        self.fakes.updates.clear()
        driver = self.driver()
        self.cluster = LocalActors(self.num_slots, self.fakes.duties)
        if driver.take_stock():
            return True
        return driver.run(self.cluster, lambda: stop_when in self.fakes.started, self.show)

    def fail_once(self, *names: str) -> None:
        """A launch that ends because each of `names` fails once, with no budget for it."""
        budgets, self.budgets = self.budgets, Budgets(max_losses=0, max_failures=0)
        self.fakes.script = {name: [(1, OSError("once"))] for name in names}
        with pytest.raises(MemberFailed):
            self.launch()
        self.fakes.script, self.budgets = {}, budgets

    def launch_killed(self, at: int, *, before: bool, monkeypatch: pytest.MonkeyPatch) -> bool:
        """Kills the driver at one of its writes of the ledger; its actors continue to their end. False: it was over."""
        real, count = ledger_module.write_json_lines, iter(range(10**6))

        def write(path: Path, value: Any) -> None:
            is_now = next(count) == at
            if not (is_now and before):
                real(path, value)
            if is_now:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(ledger_module, "write_json_lines", write)
            try:
                self.launch()
                return False
            except Killed:
                return True
            finally:
                for thread in self.cluster.threads:
                    thread.join()

    def driver(self) -> Driver:
        """That of the next launch."""
        ends = None if self.hours is None else self.clock() + self.hours * 3600
        ledger = Ledger(self.paths.ledger, self.clock, ends)
        return Driver(self.work(), ledger, self.tracker, self.book, self.clock)

    def work(self) -> Work:
        """What it is told."""
        store = self.root / "store"
        atomic.write_text(store / "digest", self.digest)
        keep = KeptCheckpoint.last
        stores = {"target": store}
        return Work(
            *(self.paths, self.plan, stores, self.digest, self.splits, Numerics(), keep, EVERY, self.budgets),
            crops=Crops.centre,
            admit=self.admit,
            without=self.without,
            hours=self.hours,
        )

    def outcomes(self, ref: str) -> list[AttemptEnd | None]:
        member, _, work = ref.partition("/")
        entry = self.ledger.predictions[member] if work == "predictions" else self.ledger.stages[ref]
        return [attempt.outcome for attempt in entry.attempts]
