"""Times the driver with a thousand members, 64 of them running: a plan, a start, a look, and its memory.

Members are stand-ins that write metrics and train nothing, so all of the time is the driver's.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from benchmarks.row import Measure, Row, Settings, Spread, Wanted
from orchestrator.cluster import Completed, Where
from orchestrator.config import compose
from orchestrator.execution import Driver, Work
from orchestrator.inputs import survey_all
from orchestrator.plan import Plan, make_plan, plan_to_json
from orchestrator.run import Book, Budgets, Committed, Ledger, RunPaths, RunRecord, StatusReader
from orchestrator.run.record import write_record
from workers.protocol import Numerics, StageResult, StageSpec
from workers.settings import KeptCheckpoint
from workers.storage import write_checkpoint, write_finished, write_text

_MEMBERS, _RUNNING, _LOOKS = 1_000, 64, 40


class _Enough(Exception):
    """The looks are done."""


class _NoTracker:
    """Takes what a tracker is told."""

    def __getattr__(self, verb: str) -> Callable[..., None]:
        return lambda *_, **__: None


class StandIns:
    """Stands for a cluster whose members log a point between two looks of the driver; keeps the time of each look.

    With `num_nodes` it has an address, and its members run on so many nodes.
    """

    grows = False

    def __init__(self, num_slots: int, num_nodes: int = 0) -> None:
        self.num_slots, self._num_nodes = num_slots, num_nodes
        self.is_local, self.left_out = not num_nodes, dict[str, str]()
        self._specs: dict[str, StageSpec] = {}
        self._since = time.perf_counter()
        self.looks: list[float] = []
        self.memory: list[int] = []

    def __getattr__(self, verb: str) -> Callable[..., None]:
        return lambda *_, **__: None

    def leaving(self) -> frozenset[str]:
        return frozenset()

    def where(self, member: str) -> Where | None:
        place = [*self._specs].index(member) % max(self._num_nodes, 1)
        return Where(f"node{place}", f"10.0.0.{place}", place, "CPU", f"id{place}") if self._num_nodes else None

    def run_stage(self, spec: StageSpec) -> None:
        self._specs[spec.member] = spec

    def poll(self, timeout_s: float) -> tuple[Completed, ...]:
        del timeout_s
        self.looks.append(time.perf_counter() - self._since)
        self.memory.append(psutil.Process().memory_info().rss)
        step = len(self.looks) + 1
        values = {"train/loss": 1.0, "images_per_second": 100.0}
        for spec in self._specs.values():
            point = {"step": step, "epoch": step / 100, "time": time.time(), "metrics": values}
            with (spec.stage_dir / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(point) + "\n")
            (spec.stage_dir / "step.txt").write_text(str(step))
        self._since = time.perf_counter()
        return ()


@dataclass
class Readings:
    """Seconds of the driver's work, and by how many bytes its memory grew over the second half of the looks.

    `first` is from the start to all members of the first slots begun, and `look` from one poll to the next.
    """

    plan: float = 0.0
    starts: list[float] = field(default_factory=list)
    first: float = 0.0
    looks: list[float] = field(default_factory=list)
    status: float = 0.0
    grown: int = 0


def measure(folder: Path, num_members: int, repeats: int = 1, num_nodes: int = 0, looks: int = _LOOKS) -> Readings:
    """Measures a sweep over so many seeds, half of them done, whose ledger was lost; 64 members run at once."""
    found, words = Readings(), ["ensemble=sweep", f"sweep.seed=[{','.join(map(str, range(num_members)))}]"]
    since = time.perf_counter()
    config = compose(words)
    plan = make_plan(config, survey_all(config))
    found.plan = time.perf_counter() - since
    paths, tracker = RunPaths(folder), _NoTracker()
    write_text(paths.root / "store" / "digest", "")
    write_record(paths, RunRecord("", plan.experiment, plan_to_json(plan), plan.hash, 0.0, {}, "", Numerics()))
    committed = Committed(stages=_finish(paths, plan))
    book = Book(lambda: committed, lambda _: None)
    for _ in range(repeats):
        paths.ledger.unlink(missing_ok=True)
        since = time.perf_counter()
        # The stand-ins have of a tracker and a cluster what the driver uses.
        driver = Driver(_work(paths, plan), Ledger(paths.ledger), tracker, book)  # type: ignore[arg-type]
        driver.take_stock()
        found.starts.append(time.perf_counter() - since)
    reader, cluster = StatusReader(paths), StandIns(_RUNNING, num_nodes)

    def until_enough() -> bool:
        if len(cluster.looks) > looks:
            raise _Enough
        return False

    def show() -> None:
        reader.read()

    with suppress(_Enough):
        driver.run(cluster, until_enough, show)  # type: ignore[arg-type]
    since = time.perf_counter()
    StatusReader(paths).read()
    found.status = time.perf_counter() - since
    # The second look reads all files for the first time.
    found.first, _, *found.looks = cluster.looks
    found.grown = cluster.memory[-1] - cluster.memory[len(cluster.memory) // 2]
    return found


def _finish(paths: RunPaths, plan: Plan) -> dict[str, str]:
    """Leaves the first half of the stages as a launch leaves finished ones; returns their digests."""
    committed = {}
    for stage in plan.stages[: len(plan.stages) // 2]:
        folder, weights = paths.checkpoints(stage.ref), {"head.bias": torch.zeros(10).numpy()}
        saved = write_checkpoint(folder, 1, weights, {}, {}, {"stage_hash": stage.hash})
        result = StageResult(1, 0, saved.folder.name, saved.model_sha256, 0.1, 0.1, False)
        write_finished(paths.stage(stage.ref), stage.hash, result)
        committed[str(stage.ref)] = saved.model_sha256
    return committed


def _work(paths: RunPaths, plan: Plan) -> Work:
    store = paths.root / "store"
    return Work(
        *(paths, plan, {"target": store}, "", (), Numerics()),
        keep=KeptCheckpoint.last, checkpoint_updates=100, budgets=Budgets(20, 3),
    )  # fmt: skip


def run(settings: Settings) -> tuple[Row, ...]:
    """Measures a sweep over a thousand seeds, half of them done, whose ledger was lost."""
    found = measure(settings.scratch / "run", _MEMBERS, settings.repeats)
    note = f"the first, which begins them, takes {found.first:.2f} s"
    note += f"; memory over the last half: {found.grown / 1e6:+.1f} MB"
    return (
        _row("plan of 1,000 members", [found.plan], 10.0, "composed and hashed"),
        _row("driver's start from disk, 1,000 members, half of them done", found.starts, 3.0, "without a ledger"),
        _row(f"driver's look at 1,000 members, {_RUNNING} of them running", found.looks, 0.05, note),
    )


def _row(name: str, seconds: list[float], most_s: float, note: str) -> Row:
    spread, wanted = Spread.of(seconds), Wanted(most_s, at_least=False)
    return Row(name, "s", spread.median, None, None, spread, Measure.seconds, wanted, len(seconds), note)
