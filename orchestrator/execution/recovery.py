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


def check_finished(paths: RunPaths, plan: Plan, committed: Committed) -> CheckFailed | None:
    """Reads the final checkpoint of each finished stage; deletes DONE.json of one that is damaged and can resume.

    Returns the error for a checkpoint that is not the committed one, or is damaged and has none before it. Other
    members may train all the same; a job that needs it will fail.

    Raises:
        CheckFailed: a DONE.json does not name the committed checkpoint.
    """
    finished = [(stage, done) for stage in plan.stages if (done := find_finished(paths, stage)) is not None]
    for stage, done in finished:
        require_stage(committed, stage.ref, paths.stage(stage.ref), done.checkpoint_sha256)

    def error_of(pair: tuple[Stage, Finished]) -> CheckFailed | None:
        try:
            _check(paths, *pair, committed)
        except CheckFailed as error:
            return error
        return None

    return next((error for error in [*map_in_order(error_of, finished)] if error is not None), None)


def _check(paths: RunPaths, stage: Stage, done: Finished, committed: Committed) -> None:
    ref, folder = stage.ref, paths.checkpoints(stage.ref)
    if not (folder / done.checkpoint).exists():
        # Deleted to save space: only a job that reads it fails.
        return
    try:
        found = verify_checkpoint(folder / done.checkpoint)
    except StorageSilent:
        # A storage that does not answer proves nothing about the checkpoint.
        return
    except StorageError as error:
        names = sorted(map(layout.checkpoint, steps_of(folder)))
        earlier = [name for name in names if name != done.checkpoint]
        # If it is neither the newest (with `predict.checkpoint=best`) nor averaged, resuming would not make it again.
        if not earlier or not (layout.is_averaged(done.checkpoint) or names[-1] == done.checkpoint):
            raise CheckFailed(str(error)) from error
        _log.warning("%s: its last checkpoint is damaged; it resumes from the one before", ref)
        paths.done(ref).unlink()
        return
    require_stage(committed, ref, paths.stage(ref), found.model_sha256)
