"""Reopens finished stages whose final checkpoint is damaged but still needed; they resume from the one before.

This happens before anything starts, so it costs one checkpoint interval of updates, and the bits are the same. A stage
without another checkpoint is not reopened: the job that reads its checkpoint fails with the reason.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from orchestrator.plan import Plan
from orchestrator.run import RunPaths, find_finished
from workers.errors import StorageError, StorageSilent
from workers.storage import layout, steps_of, verify_checkpoint

_log = logging.getLogger(__name__)


def reopen_damaged(paths: RunPaths, plan: Plan, has_predictions: Callable[[str], bool]) -> None:
    """Deletes DONE.json of each finished stage that a stage or predictions still need and that does not verify."""
    done = {stage.ref: finished for stage in plan.stages if (finished := find_finished(paths, stage)) is not None}
    for stage in plan.stages:
        if stage.ref not in done:
            continue
        wanted = any(later.init_from == stage.ref and later.ref not in done for later in plan.stages)
        if not wanted and plan.last_stages[stage.ref.member] == stage.ref:
            wanted = not has_predictions(stage.ref.member)
        if wanted and _is_damaged(paths.checkpoints(stage.ref), done[stage.ref].checkpoint):
            _log.warning("%s: its last checkpoint is damaged; it resumes from the one before", stage.ref)
            paths.done(stage.ref).unlink()


def _is_damaged(folder: Path, name: str) -> bool:
    """Returns whether a finished stage's checkpoint is damaged and there is an earlier one to resume from.

    If it is not the newest (with `predict.checkpoint=best`), resuming would not make it again.
    """
    steps = steps_of(folder)
    if len(steps) < 2 or layout.checkpoint(max(steps)) != name:
        return False
    try:
        verify_checkpoint(folder / name)
    except StorageError as error:
        # A storage that does not answer proves nothing about the checkpoint.
        return not isinstance(error, StorageSilent)
    return False
