"""`make_run`: a finished run directory without training. Seeded predictions, metrics, checkpoints of one layer."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
from record_committed import record_committed
from safetensors.numpy import save_file

from orchestrator.plan.model import Plan, PlannedDataset, Stage, StageRef, plan_to_json
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import RunRecord, write_record
from workers.protocol import Numerics, SplitPredictions, StageResult
from workers.settings.training import Recipe
from workers.storage.finished import write_finished

CLASSES = tuple(f"class{number:02d}" for number in range(12))
NUM_ROWS = 80


@dataclass(frozen=True)
class Run:
    """A synthetic run."""

    paths: RunPaths
    plan: Plan


def make_stage(member: str, stage: str, dataset: str, init_from: StageRef | None) -> Stage:
    return Stage(
        ref=StageRef(member, stage),
        recipe=Recipe(dataset=dataset),
        init_from=init_from,
        member_seed=0,
        seed=1,
        hash=f"hash-{member}-{stage}",
        num_images=100,
        num_updates=10,
        num_classes=len(CLASSES),
    )


def make_plan(base: tuple[str, ...], pretrained: tuple[str, ...]) -> Plan:
    stages = [make_stage(member, "train", "target", None) for member in base]
    for member in pretrained:
        first = make_stage(member, "pretrain", "superset", None)
        stages += [first, make_stage(member, "finetune", "target", first.ref)]
    datasets = tuple(
        PlannedDataset(name, {}, CLASSES, len(CLASSES), {"train": 100}, False) for name in ("target", "superset")
    )
    last = {stage.ref.member: stage.ref for stage in stages}
    return Plan("synthetic", "f" * 64, (*base, *pretrained), tuple(stages), datasets, last)


def build_run(
    root: Path,
    base: tuple[str, ...] = ("base3", "base1", "base2"),
    pretrained: tuple[str, ...] = ("deep1",),
    splits: tuple[str, ...] = ("dev", "val", "test"),
    labelled: tuple[str, ...] = ("dev", "val"),
    at_chance: tuple[str, ...] = (),
    unreadable: tuple[int, ...] = (),
) -> Run:
    """Members are right more often than not, each with errors of its own; pre-trained ones are more certain."""
    paths, plan = RunPaths(root), make_plan(base, pretrained)
    generator = np.random.default_rng(7)
    labels = {split: generator.integers(0, len(CLASSES), NUM_ROWS) for split in splits}
    _write_data(paths.data, labels, labelled, unreadable)
    for member in plan.members:
        _write_stages(paths, plan, member, member in at_chance, generator)
        for split in splits:
            probabilities = _draw(generator, labels[split], 2.0 if plan.is_pretrained(member) else 1.2)
            write_predictions(paths, member, split, probabilities)
    write_record(
        paths,
        RunRecord(
            run_id="00000000-0000-0000-0000-000000000000",
            experiment=plan.experiment,
            plan=plan_to_json(plan),
            plan_hash=plan.hash,
            created=0.0,
            versions={"septet": "0.1.0", "torch": "2.9"},
            code_digest="c" * 64,
            numerics=Numerics(),
            data_digests={"target": "d" * 64},
        ),
    )
    record_committed(paths, plan)
    return Run(paths, plan)


@pytest.fixture
def make_run() -> Callable[..., Run]:
    """`build_run`, for tests to call with the run they need."""
    return build_run


def write_predictions(paths: RunPaths, member: str, split: str, probabilities: np.ndarray) -> None:
    folder = paths.predictions(member)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{split}.npy", probabilities)
    about = SplitPredictions(
        split=split,
        num_rows=len(probabilities),
        num_classes=probabilities.shape[1],
        rows_sha256=hashlib.sha256((paths.data / f"{split}.rows.txt").read_bytes()).hexdigest(),
        data_digest="d" * 64,
        sha256=hashlib.sha256((folder / f"{split}.npy").read_bytes()).hexdigest(),
        checkpoint="step-00000010",
        checkpoint_sha256=f"sha-{member}",
    )
    (folder / f"{split}.json").write_text(json.dumps(asdict(about)))


def _draw(generator: np.random.Generator, labels: np.ndarray, strength: float) -> np.ndarray:
    logits = generator.normal(size=(len(labels), len(CLASSES)))
    logits[np.arange(len(labels)), labels] += strength
    powers = np.exp(logits)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def _write_data(
    folder: Path, labels: dict[str, np.ndarray], labelled: tuple[str, ...], unreadable: tuple[int, ...]
) -> None:
    folder.mkdir(parents=True)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    for split, own in labels.items():
        (folder / f"{split}.rows.txt").write_text("".join(f"{split}_{row:03d}.png\n" for row in range(len(own))))
        np.save(folder / f"{split}.sizes.npy", np.full((len(own), 2), 32, np.int32))
        if split in labelled:
            np.save(folder / f"{split}.labels.npy", own)
    counts = {split: len(labels.get(split, ())) for split in ("train", "dev", "val", "test")}
    about = {
        "digest": "d" * 64,
        "class_ids": [],
        "counts": counts,
        "unreadable": {split: [] for split in labels} | {"test": list(unreadable)},
    }
    (folder / "dataset.json").write_text(json.dumps(about))


def _write_stages(paths: RunPaths, plan: Plan, member: str, at_chance: bool, generator: np.random.Generator) -> None:
    for stage in plan.stages_of(member):
        checkpoint = paths.checkpoints(stage.ref) / "step-00000010"
        checkpoint.mkdir(parents=True)
        weights = generator.normal(size=(24, 3, 5, 5)).astype(np.float32)
        save_file({"conv1.weight": weights}, checkpoint / "model.safetensors")
        lines = [
            {
                "step": epoch,
                "epoch": float(epoch),
                "time": float(epoch),
                "metrics": {
                    "train/top1_error": 0.9 / epoch + 0.05 * generator.random(),
                    "val/top1_error": 0.2 + 0.7 / epoch + 0.03 * generator.random(),
                },
            }
            for epoch in range(1, 11)
        ]
        paths.metrics(stage.ref).write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = StageResult(10, 0, "step-00000010", f"sha-{member}", 0.2, 0.2, at_chance)
        write_finished(paths.stage(stage.ref), stage.hash, result)
