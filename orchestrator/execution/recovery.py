"""Checks the final checkpoint of each finished stage before anything starts.

If it is damaged and there is an earlier one, the stage is reopened and resumes from that, which costs one checkpoint
interval of updates, and the bits are the same.
"""

import logging

from orchestrator.plan import Plan, Stage
from orchestrator.run import Committed, RunPaths, find_finished, require_stage
from workers.errors import CheckFailed, StorageError, StorageSilent
from workers.storage import Finished, layout, steps_of, verify_checkpoint
from workers.threads import map_in_order

_log = logging.getLogger(__name__)


def check_finished(paths: RunPaths, plan: Plan, committed: Committed) -> None:
    """Reads the final checkpoint of each finished stage; deletes DONE.json of one that is damaged and can resume.

    Raises:
        CheckFailed: a checkpoint is not the one that was committed, or is damaged and there is none before it.
    """
    finished = [(stage, done) for stage in plan.stages if (done := find_finished(paths, stage)) is not None]
    for _ in map_in_order(lambda pair: _check(paths, *pair, committed), finished):
        pass


def _check(paths: RunPaths, stage: Stage, done: Finished, committed: Committed) -> None:
    ref, folder = stage.ref, paths.checkpoints(stage.ref)
    require_stage(committed, ref, paths.stage(ref), done.checkpoint_sha256)
    if not (folder / done.checkpoint).exists():
        # Deleted to save space: only a job that reads it fails.
        return
    try:
        found = verify_checkpoint(folder / done.checkpoint)
    except StorageSilent:
        # A storage that does not answer proves nothing about the checkpoint.
        return
    except StorageError as error:
        steps = steps_of(folder)
        # If it is not the newest (with `predict.checkpoint=best`), resuming would not make it again.
        if len(steps) < 2 or layout.checkpoint(max(steps)) != done.checkpoint:
            raise CheckFailed(f"{error}; {ref} is finished and cannot make it again") from error
        _log.warning("%s: its last checkpoint is damaged; it resumes from the one before", ref)
        paths.done(ref).unlink()
        return
    require_stage(committed, ref, paths.stage(ref), found.model_sha256)
