"""Finished runs without training: `build_run`, with seeded predictions, metrics and checkpoints of one layer.

`commit` makes every digest of such a run a real one, as the driver and a launch do at their end.
"""

import csv
import hashlib
import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from fake_stages import make_plan, make_record, make_stage
from record_committed import record_committed
from safetensors.numpy import save_file

from orchestrator.config.schema import CombineConfig, SubmissionConfig, SubmissionFormat
from orchestrator.outputs import Results, write_results
from orchestrator.plan.model import Plan
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import write_record
from workers.protocol import SplitPredictions, StageResult
from workers.storage import atomic
from workers.storage.atomic import sha256_of
from workers.storage.checkpoint import write_checkpoint
from workers.storage.finished import write_finished

CLASSES = tuple(f"class{number:02d}" for number in range(12))
NUM_ROWS = 80
MEAN = CombineConfig()
PROBABILITIES = SubmissionConfig(SubmissionFormat.probabilities)


@dataclass(frozen=True)
class Run:
    """A synthetic run."""

    paths: RunPaths
    plan: Plan


def synthetic_plan(base: tuple[str, ...], pretrained: tuple[str, ...], classes: tuple[str, ...] = CLASSES) -> Plan:
    stages = [make_stage(f"{member}/train", num_classes=len(classes)) for member in base]
    for member in pretrained:
        first = f"{member}/pretrain"
        stages.append(make_stage(first, num_classes=len(classes), dataset="superset"))
        stages.append(make_stage(f"{member}/finetune", first, num_classes=len(classes)))
    return make_plan(*stages, classes=classes, experiment="synthetic")


def build_run(
    root: Path,
    base: tuple[str, ...] = ("base3", "base1", "base2"),
    pretrained: tuple[str, ...] = ("deep1",),
    splits: tuple[str, ...] = ("dev", "val", "test"),
    labelled: tuple[str, ...] = ("dev", "val"),
    at_chance: tuple[str, ...] = (),
    unreadable: tuple[int, ...] = (),
    classes: tuple[str, ...] = CLASSES,
    num_rows: int | None = None,
) -> Run:
    """Members are right more often than not, each with errors of its own; pre-trained ones are more certain."""
    paths, plan = RunPaths(root), synthetic_plan(base, pretrained, classes)
    generator = np.random.default_rng(7)
    labels = {split: generator.integers(0, len(classes), num_rows or NUM_ROWS) for split in splits}
    _write_data(paths.data, labels, labelled, unreadable, classes)
    for member in plan.members:
        _write_stages(paths, plan, member, member in at_chance, generator)
        for split in splits:
            probabilities = _draw(generator, labels[split], len(classes), 2.0 if plan.is_pretrained(member) else 1.2)
            write_predictions(paths, member, split, probabilities)
    versions = {"septet": "0.1.0", "torch": "2.9"}
    described = make_record(plan, versions=versions, code_digest="c" * 64, data_digests={"target": "d" * 64})
    write_record(paths, described)
    record_committed(paths, plan)
    return Run(paths, plan)


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


def _draw(generator: np.random.Generator, labels: np.ndarray, num_classes: int, strength: float) -> np.ndarray:
    logits = generator.normal(size=(len(labels), num_classes))
    logits[np.arange(len(labels)), labels] += strength
    powers = np.exp(logits)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def _write_data(
    folder: Path,
    labels: dict[str, np.ndarray],
    labelled: tuple[str, ...],
    unreadable: tuple[int, ...],
    classes: tuple[str, ...],
) -> None:
    folder.mkdir(parents=True)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    for split, own in labels.items():
        (folder / f"{split}.rows.txt").write_text("".join(f"{split}_{row:03d}.png\n" for row in range(len(own))))
        np.save(folder / f"{split}.sizes.npy", np.full((len(own), 2), 32, np.int32))
        if split in labelled:
            np.save(folder / f"{split}.labels.npy", own)
    counts = {split: len(labels.get(split, ())) for split in ("train", "dev", "val", "test")}
    unread = {split: [] for split in labels} | {"test": list(unreadable)}
    about = {"digest": "d" * 64, "class_ids": [], "counts": counts, "unreadable": unread}
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


def commit(run: Run, combine: CombineConfig, submission: SubmissionConfig) -> Results:
    """What the driver and the launch do at their end: stages, predictions and data recorded, the submission written."""
    paths = run.paths
    for number, stage in enumerate(run.plan.stages):
        checkpoint = real_checkpoint(run, stage.ref, number)
        result = StageResult(10, 0, checkpoint.folder.name, checkpoint.model_sha256, 0.2, 0.2, False)
        write_finished(paths.stage(stage.ref), stage.hash, result)
    for member in run.plan.members:
        of = json.loads(paths.done(run.plan.last_stages[member]).read_text())["checkpoint_sha256"]
        for about in paths.predictions(member).glob("*.json"):
            atomic.write_json(about, json.loads(about.read_text()) | {"checkpoint_sha256": of})
    record_committed(paths, run.plan)
    return write_results(paths, run.plan, combine, submission)


def real_checkpoint(run: Run, ref, number: int):
    for old in (run.paths.checkpoints(ref)).glob("step-*/*"):
        old.unlink()
    for old in (run.paths.checkpoints(ref)).glob("step-*"):
        old.rmdir()
    weights = {"conv1.weight": np.random.default_rng(number).normal(size=(4, 3, 5, 5)).astype(np.float32)}
    return write_checkpoint(run.paths.checkpoints(ref), 10, weights, weights, {"train": {}}, {"stage_hash": "x"})


def alter_predictions(paths: RunPaths, member: str, split: str) -> None:
    """Other probabilities, and a description that fits them: only a digest kept elsewhere can tell."""
    array = paths.predictions(member) / f"{split}.npy"
    np.save(array, np.load(array)[:, ::-1].copy())
    about = array.with_suffix(".json")
    atomic.write_json(about, json.loads(about.read_text()) | {"sha256": sha256_of(array)})


def finish(run, combine=MEAN, submission=PROBABILITIES, metric=None):
    return write_results(run.paths, run.plan, combine, submission, metric=metric)


def scores_of(run):
    return json.loads((run.paths.report / "scores.json").read_text())


def stored(run, member, split):
    return np.load(run.paths.predictions(member) / f"{split}.npy")


def submitted(run):
    with (run.paths.submission / "submission.csv").open(newline="") as file:
        return np.array([line[1:] for line in csv.reader(file)][1:], dtype=np.float32)


def understate(run, power=0.3):
    """Makes every member less sure than it could be."""
    for member, split in itertools.product(run.plan.members, ("dev", "val", "test")):
        array = run.paths.predictions(member) / f"{split}.npy"
        rows = np.load(array) ** power
        np.save(array, rows / rows.sum(axis=1, keepdims=True))
        about = array.with_suffix(".json")
        atomic.write_json(about, json.loads(about.read_text()) | {"sha256": sha256_of(array)})
    record_committed(run.paths, run.plan)
