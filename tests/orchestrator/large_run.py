"""Finished runs of any size without training: `python tests/orchestrator/large_run.py FOLDER MEMBERS CLASSES IMAGES`.

Members share what is hard about an image and have noise of their own. Ten neighbouring classes are like each other.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from fake_stages import make_plan, make_record, make_stage
from record_committed import record_committed
from safetensors.numpy import save_file
from whole_run import Run

from orchestrator.config import compose
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import write_record
from workers.protocol import SplitPredictions, StageResult
from workers.storage.atomic import sha256_of
from workers.storage.finished import write_finished

_GROUP = 10
_ROWS = 1000


def build_large_run(root: Path, num_members: int, num_classes: int, num_rows: int, split: str = "val") -> Run:
    """A run with predictions of one labelled split; every member has a file of its own."""
    paths, classes = RunPaths(root), tuple(f"class{number:04d}" for number in range(num_classes))
    names = [f"base{number}" for number in range(1, num_members + 1)]
    stages = [make_stage(f"{name}/train", num_classes=num_classes) for name in names]
    plan = make_plan(*stages, classes=classes, experiment="large")
    labels = np.random.default_rng(0).integers(0, num_classes, num_rows)
    paths.data.mkdir(parents=True)
    (paths.data / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    rows = "".join(f"{classes[label]}/{row:06d}.jpg\n" for row, label in enumerate(labels))
    (paths.data / f"{split}.rows.txt").write_text(rows)
    np.save(paths.data / f"{split}.sizes.npy", np.full((num_rows, 2), 32, np.int32))
    np.save(paths.data / f"{split}.labels.npy", labels)
    counts = dict.fromkeys(("train", "dev", "val", "test"), 0) | {split: num_rows}
    about = {"digest": "d" * 64, "class_ids": [], "counts": counts, "unreadable": {split: []}}
    (paths.data / "dataset.json").write_text(json.dumps(about))
    for member, stage in enumerate(stages):
        checkpoint = paths.checkpoints(stage.ref) / "step-00000010"
        checkpoint.mkdir(parents=True)
        weights = np.random.default_rng(member).normal(size=(96, 3, 11, 11)).astype(np.float32)
        save_file({"conv1.weight": weights}, checkpoint / "model.safetensors")
        lines = [
            {
                "step": 10 * epoch,
                "epoch": float(epoch),
                "time": float(epoch),
                "metrics": {"val/top1_error": 0.9 / epoch},
            }
            for epoch in range(1, 91)
        ]
        paths.metrics(stage.ref).write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = StageResult(10, 0, checkpoint.name, f"sha-{stage.ref.member}", 0.2, 0.2, False)
        write_finished(paths.stage(stage.ref), stage.hash, result)
        _write_predictions(paths, stage.ref.member, split, labels, num_classes, member)
    versions, digests = {"septet": "0.1.0"}, {"target": "d" * 64}
    write_record(paths, make_record(plan, versions=versions, code_digest="c" * 64, data_digests=digests))
    paths.config_yaml.write_text(compose([]).yaml)
    record_committed(paths, plan)
    return Run(paths, plan)


def _write_predictions(
    paths: RunPaths, member: str, split: str, labels: np.ndarray, num_classes: int, seed: int
) -> None:
    """Writes block by block, so that memory does not grow with the run."""
    folder = paths.predictions(member)
    folder.mkdir(parents=True)
    with (folder / f"{split}.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(labels), num_classes)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in _draw(labels, num_classes, seed):
            file.write(block.data)
    about = SplitPredictions(
        split=split,
        num_rows=len(labels),
        num_classes=num_classes,
        rows_sha256=sha256_of(paths.data / f"{split}.rows.txt"),
        data_digest="d" * 64,
        sha256=sha256_of(folder / f"{split}.npy"),
        checkpoint="step-00000010",
        checkpoint_sha256=f"sha-{member}",
    )
    (folder / f"{split}.json").write_text(json.dumps(asdict(about)))


def _draw(labels: np.ndarray, num_classes: int, seed: int) -> Iterator[np.ndarray]:
    for start in range(0, len(labels), _ROWS):
        own = labels[start : start + _ROWS]
        shared, noise = np.random.default_rng(start), np.random.default_rng([start, 1 + seed])
        logits = shared.standard_normal((len(own), num_classes), np.float32) * np.float32(1.3)
        near = own[:, None] // _GROUP * _GROUP + np.arange(_GROUP)
        at = np.arange(len(own))
        logits[at[:, None], np.minimum(near, num_classes - 1)] += np.float32(2)
        logits[at, own] += shared.normal(4, 2, len(own)).astype(np.float32)
        logits += noise.standard_normal(logits.shape, np.float32) * np.float32(0.7)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        yield logits


if __name__ == "__main__":
    build_large_run(Path(sys.argv[1]), *map(int, sys.argv[2:]))
