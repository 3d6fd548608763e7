"""Finished stages whose checkpoint, which somebody still needs, is damaged: opened again, to go on from the one before.

Found here, before anything is started, it costs one interval of updates; the bits come out the same, and with them what
was made of them already. Where no other checkpoint is left it is not opened: whoever reads it says so.
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
    """Takes DONE.json from finished stages of which a next stage or predictions are wanted, and which do not verify."""
    done = {stage.ref: finished for stage in plan.stages if (finished := find_finished(paths, stage)) is not None}
    for stage in plan.stages:
        if stage.ref not in done:
            continue
        wanted = any(later.init_from == stage.ref and later.ref not in done for later in plan.stages)
        if not wanted and plan.last_stages[stage.ref.member] == stage.ref:
            wanted = not has_predictions(stage.ref.member)
        if wanted and _is_damaged(paths.checkpoints(stage.ref), done[stage.ref].checkpoint):
            _log.warning("%s: its last checkpoint is damaged: it goes on from the one before", stage.ref)
            paths.done(stage.ref).unlink()


def _is_damaged(folder: Path, name: str) -> bool:
    """Says whether a finished stage's checkpoint is damaged and there is an earlier one to resume from.

    One that is not the newest (the best of `predict.checkpoint=best`) is made by no update that is still to come.
    """
    steps = steps_of(folder)
    if len(steps) < 2 or layout.checkpoint(max(steps)) != name:
        return False
    try:
        verify_checkpoint(folder / name)
    except StorageSilent:
        # Whoever reads it next says so.
        return False
    except StorageError:
        return True
    return False
