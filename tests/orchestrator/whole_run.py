"""A finished run whose every digest is real: `make_run`'s, with checkpoints as stages write them, and committed."""

import json
from typing import TYPE_CHECKING

import numpy as np
from record_committed import record_committed

from orchestrator.config.schema import CombineConfig, SubmissionConfig
from orchestrator.outputs import Results, write_results
from orchestrator.run.paths import RunPaths
from workers.protocol import StageResult
from workers.storage import atomic
from workers.storage.atomic import sha256_of
from workers.storage.checkpoint import write_checkpoint
from workers.storage.finished import write_finished

if TYPE_CHECKING:
    from conftest import Run


def commit(run: "Run", combine: CombineConfig, submission: SubmissionConfig) -> Results:
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


def real_checkpoint(run: "Run", ref, number: int):  # type: ignore[no-untyped-def]
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
