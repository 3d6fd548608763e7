"""Stages, plans, specs and records for tests, and stages that train nothing: they write the files that real ones write.

A script says what an attempt meets. Counting what was done, in files, is the tests' evidence that it happened.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from local_actors import ActorDied

from orchestrator.cluster.actor import Duties
from orchestrator.plan.model import Plan, PlannedDataset, Stage, StageRef, plan_to_json
from orchestrator.run.record import RunRecord
from workers.errors import Stopped
from workers.protocol import Numerics, PredictSpec, SplitPredictions, StageResult, StageSpec
from workers.settings.training import Crops, KeptCheckpoint, Recipe, ScheduleSettings
from workers.storage import atomic, layout
from workers.storage.checkpoint import _SCHEMA, newest_step
from workers.storage.finished import read_finished

NUM_UPDATES = 10
EVERY = 3


def make_stage(
    name: str, init_from: str | None = None, images: int = 100, num_classes: int = 10, seed: int = 0, **recipe: Any
) -> Stage:
    """The stage `member/stage` with the given settings; its hash follows them, its name and its ancestor's."""
    of = Recipe(**{"dataset": "target", **recipe})
    digest = hashlib.sha256(repr((name, init_from, of)).encode()).hexdigest()
    parent = StageRef.parse(init_from) if init_from else None
    return Stage(StageRef.parse(name), of, parent, 0, seed, digest, images, NUM_UPDATES, num_classes)


def make_plan(*stages: Stage, classes: tuple[str, ...] = ("a", "b"), experiment: str = "fake") -> Plan:
    """A plan of stages that stand after their ancestors; a member's last one is the last that is listed."""
    last = {stage.ref.member: stage.ref for stage in stages}
    names = dict.fromkeys(("target", *(stage.recipe.dataset for stage in stages)))
    return Plan(
        experiment=experiment,
        hash=hashlib.sha256(repr(sorted(stage.hash for stage in stages)).encode()).hexdigest(),
        members=tuple(last),
        stages=stages,
        datasets=tuple(PlannedDataset(name, {}, classes, len(classes), {"train": 100}, False) for name in names),
        last_stages=last,
    )


def plan_of(chains: Mapping[str, Mapping[str, str | None]], epochs: Mapping[str, int] | None = None) -> Plan:
    """A plan of members → stages → where each starts from (`member/stage`, or None)."""
    waiting = [
        make_stage(ref, parent, schedule=ScheduleSettings(epochs=(epochs or {}).get(ref, 1)))
        for member, chain in chains.items()
        for ref, parent in ((f"{member}/{name}", parent) for name, parent in chain.items())
    ]
    last = {member: StageRef(member, list(chain)[-1]) for member, chain in chains.items()}
    ordered: list[Stage] = []
    while len(ordered) < len(waiting):
        known = {stage.ref for stage in ordered}
        ordered += [s for s in waiting if s.ref not in known and (s.init_from is None or s.init_from in known)]
    return replace(make_plan(*ordered), members=tuple(chains), last_stages=last)


def make_spec(stage_dir: Path, stage: Stage | None = None, store: Path | None = None) -> StageSpec:
    """What a worker is told of a stage (by default an undescribed one named by `stage_dir`'s last two folders)."""
    stage = stage or make_stage(f"{stage_dir.parent.name}/{stage_dir.name}")
    # The driver's fence is there before a worker starts.
    stage_dir.parent.mkdir(parents=True, exist_ok=True)
    return StageSpec(
        member=stage.ref.member,
        stage=stage.ref.stage,
        seed=stage.seed,
        recipe=stage.recipe,
        store=store or stage_dir,
        stage_dir=stage_dir,
        init_dir=None,
        numerics=Numerics(),
        checkpoint_updates=100,
        keep=KeptCheckpoint.last,
        stage_hash=stage.hash,
    )


def make_record(plan: Plan, **changes: Any) -> RunRecord:
    """What run.json says of a run of `plan`."""
    record = RunRecord("u", plan.experiment, plan_to_json(plan), plan.hash, 0.0, {}, "", Numerics())
    return replace(record, **changes)


@dataclass
class FakeStages:
    """`script[ref]` lists, an attempt each, an exception to raise after an update (predictions: at once); then all
    goes well.

    `waiting` names stages that stay at their first update, and predictions, until they are asked to stop. `errors` are
    dev errors, 0.1 where there is none. A stage that pauses after some of its epochs makes that share of its updates.
    `probabilities` are those that members predict, of the images with `rows_sha256`; else four rows of two equal ones.
    """

    script: Mapping[str, list[tuple[int, BaseException]]] = field(default_factory=dict)
    waiting: frozenset[str] = frozenset()
    started: list[str] = field(default_factory=list)
    updates: list[tuple[str, int]] = field(default_factory=list)
    crops: dict[str, Crops] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    probabilities: Mapping[str, np.ndarray] = field(default_factory=dict)
    rows_sha256: str = ""

    def duties(self) -> Duties:
        return Duties(self.run_stage, self.predict)

    def run_stage(self, spec: StageSpec, should_stop: Callable[[], bool]) -> StageResult:
        ref = f"{spec.member}/{spec.stage}"
        self.started.append(ref)
        if spec.init_dir is not None:
            read_finished(spec.init_dir)
        attempt = self.started.count(ref) - 1
        planned = self.script.get(ref, [])
        trouble_at, trouble = planned[attempt] if attempt < len(planned) else (-1, None)
        resumed_from = newest_step(spec.stage_dir / "checkpoints")
        _cut_back(spec.stage_dir / "metrics.jsonl", resumed_from)
        last = NUM_UPDATES * spec.until // spec.recipe.schedule.epochs or NUM_UPDATES
        for step in range(resumed_from + 1, last + 1):
            self.updates.append((ref, step))
            _append(spec.stage_dir / "metrics.jsonl", step)
            (spec.stage_dir / "step.txt").write_text(str(step))
            if step % EVERY == 0 or step == last:
                _save(spec.stage_dir, step)
            if step == trouble_at and trouble is not None:
                raise trouble
            while ref in self.waiting and not should_stop():
                time.sleep(0.005)
            if should_stop():
                _save(spec.stage_dir, step)
                raise Stopped(f"{ref}: stopped after update {step}")
        error = self.errors.get(ref, 0.1)
        return StageResult(last, resumed_from, f"step-{last:08d}", weights_sha256(ref), error, 0.2, False)

    def predict(self, spec: PredictSpec, should_stop: Callable[[], bool]) -> tuple[SplitPredictions, ...]:
        name = f"{spec.member}/predictions"
        self.started.append(name)
        self.crops[spec.member] = spec.crops
        for _, trouble in self.script.get(name, [])[self.started.count(name) - 1 :][:1]:
            raise trouble
        while name in self.waiting:
            if should_stop():
                raise Stopped(f"{name}: stopped")
            time.sleep(0.005)
        ref = f"{spec.member}/{spec.stage_dir.name}"
        rows = self.probabilities.get(spec.member, np.full((4, 2), 0.5, dtype=np.float32))
        return tuple(
            _write_predictions(spec, split, weights_sha256(ref), rows, self.rows_sha256) for split in spec.splits
        )


def weights_sha256(ref: object) -> str:
    """What the final checkpoint of a stage, `member/stage`, has for a digest."""
    return hashlib.sha256(str(ref).encode()).hexdigest()


def _append(path: Path, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        point = {"step": step, "epoch": step / NUM_UPDATES, "time": time.time(), "metrics": {"train/loss": 1 / step}}
        file.write(json.dumps(point) + "\n")


def _cut_back(path: Path, step: int) -> None:
    if path.exists():
        kept = [line for line in path.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= step]
        atomic.write_text(path, "".join(kept))


def _save(stage_dir: Path, step: int) -> None:
    """A checkpoint that verifies, of the stage's name, and without the fsyncs of a real one."""
    content = f"{stage_dir.parent.name}/{stage_dir.name}".encode()
    folder = stage_dir / layout.CHECKPOINTS / layout.checkpoint(step)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in (layout.MODEL, layout.OPTIMIZER, layout.STATE):
        (folder / name).write_bytes(content)
        files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / layout.MANIFEST).write_bytes(
        atomic.sealed({"schema": _SCHEMA, "step": step, "stage_hash": "", "files": files})
    )


def _write_predictions(
    spec: PredictSpec, split: str, checkpoint_sha256: str, rows: np.ndarray, rows_sha256: str
) -> SplitPredictions:
    path = spec.predictions_dir / f"{split}.npy"
    with atomic.replacing(path) as file:
        np.save(file, rows)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    digest = open_digest(spec.store)
    described = SplitPredictions(split, *rows.shape, rows_sha256, digest, sha256, "", checkpoint_sha256)
    atomic.write_json(spec.predictions_dir / f"{split}.json", asdict(described))
    return described


def open_digest(store: Path) -> str:
    """What a fake store has for a digest."""
    return (store / "digest").read_text()


def died() -> BaseException:
    return ActorDied("killed by the test")
