"""Times the driver with a thousand members, 64 of them running: a plan, a start, a look, and its memory.

Members are stand-ins that write metrics and train nothing, so all of the time is the driver's.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType

import psutil
import torch

from benchmarks.row import Measure, Row, Settings, Spread, Wanted
from orchestrator.cluster import Completed
from orchestrator.config import compose
from orchestrator.execution import Driver, Work
from orchestrator.inputs import survey_all
from orchestrator.plan import Plan, make_plan, plan_to_json
from orchestrator.run import Book, Budgets, Committed, Ledger, RunPaths, RunRecord, StatusReader
from orchestrator.run.record import write_record
from workers.protocol import Numerics, StageResult, StageSpec
from workers.settings import KeptCheckpoint
from workers.storage import write_checkpoint, write_finished, write_text

_MEMBERS, _RUNNING, _FINISHED, _LOOKS = 1_000, 64, 500, 40


class _Enough(Exception):
    """The looks are done."""


class _NoTracker:
    """Takes what a tracker is told."""

    def __getattr__(self, verb: str) -> Callable[..., None]:
        return lambda *_, **__: None


class _StandIns:
    """Stands for a cluster whose members log a point between two looks of the driver; keeps the time of each look."""

    is_local, num_slots, grows = True, _RUNNING, False
    left_out: Mapping[str, str] = MappingProxyType({})

    def __init__(self) -> None:
        self._specs: dict[str, StageSpec] = {}
        self._since = 0.0
        self.looks: list[float] = []
        self.memory: list[int] = []

    def __getattr__(self, verb: str) -> Callable[..., None]:
        return lambda *_, **__: None

    def leaving(self) -> frozenset[str]:
        return frozenset()

    def run_stage(self, spec: StageSpec) -> None:
        self._specs[spec.member] = spec

    def poll(self, timeout_s: float) -> tuple[Completed, ...]:
        del timeout_s
        if self._since:
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


def _finish(paths: RunPaths, plan: Plan) -> dict[str, str]:
    """Leaves the first members' stages as a launch leaves finished ones; returns their digests."""
    committed = {}
    for stage in plan.stages[:_FINISHED]:
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
    words = ["ensemble=sweep", f"sweep.seed=[{','.join(map(str, range(_MEMBERS)))}]"]
    since = time.perf_counter()
    config = compose(words)
    plan = make_plan(config, survey_all(config))
    planned = time.perf_counter() - since
    starts: list[float] = []
    paths, cluster, tracker = RunPaths(settings.scratch / "run"), _StandIns(), _NoTracker()
    write_text(paths.root / "store" / "digest", "")
    write_record(paths, RunRecord("", plan.experiment, plan_to_json(plan), plan.hash, 0.0, {}, "", Numerics()))
    committed = Committed(stages=_finish(paths, plan))
    book = Book(lambda: committed, lambda _: None)
    for _ in range(settings.repeats):
        paths.ledger.unlink(missing_ok=True)
        since = time.perf_counter()
        # The stand-ins have of a tracker and a cluster what the driver uses.
        driver = Driver(_work(paths, plan), Ledger(paths.ledger), tracker, book)  # type: ignore[arg-type]
        driver.take_stock()
        starts.append(time.perf_counter() - since)
    reader = StatusReader(paths)

    def until_enough() -> bool:
        if len(cluster.looks) >= _LOOKS:
            raise _Enough
        return False

    def show() -> None:
        reader.read()

    with suppress(_Enough):
        driver.run(cluster, until_enough, show)  # type: ignore[arg-type]
    first, *later = cluster.looks
    half = len(cluster.memory) // 2
    grown = cluster.memory[-1] - cluster.memory[half]
    note = f"the first, which starts them, takes {first:.1f} s; memory over the last {half}: {grown / 1e6:+.1f} MB"
    return (
        _row("plan of 1,000 members", [planned], 10.0, "composed and hashed"),
        _row("driver's start from disk, 1,000 members, half of them done", starts, 3.0, "without a ledger"),
        _row(f"driver's look at 1,000 members, {_RUNNING} of them running", later, 0.05, note),
    )


def _row(name: str, seconds: list[float], most_s: float, note: str) -> Row:
    spread, wanted = Spread.of(seconds), Wanted(most_s, at_least=False)
    return Row(name, "s", spread.median, None, None, spread, Measure.seconds, wanted, len(seconds), note)
