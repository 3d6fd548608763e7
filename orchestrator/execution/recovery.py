"""Finished stages whose checkpoint, which somebody still needs, is damaged: opened again, to go on from the one before.

Found here, before anything is started, it costs one interval of updates; the bits come out the same, and with them what
was made of them already. Where no other checkpoint is left it is not opened: whoever reads it says so.
"""

import logging
from collections.abc import Callable

from orchestrator.plan import Plan, Stage
from orchestrator.run import RunPaths
from workers.errors import StorageError, StorageSilent
from workers.storage import layout, read_finished, verify_checkpoint

_log = logging.getLogger(__name__)


def reopen_damaged(
    paths: RunPaths, plan: Plan, is_done: Callable[[Stage], bool], has_predictions: Callable[[str], bool]
) -> None:
    """Takes DONE.json from finished stages of which a next stage or predictions are wanted, and which do not verify."""
    done = {stage.ref for stage in plan.stages if is_done(stage)}
    for stage in plan.stages:
        if stage.ref not in done:
            continue
        wanted = any(later.init_from == stage.ref and later.ref not in done for later in plan.stages)
        if not wanted and plan.last_stages[stage.ref.member] == stage.ref:
            wanted = not has_predictions(stage.ref.member)
        if wanted and _is_damaged(paths, stage):
            _log.warning("%s: its last checkpoint is damaged: it goes on from the one before", stage.ref)
            paths.done(stage.ref).unlink()


def _is_damaged(paths: RunPaths, stage: Stage) -> bool:
    """Whether the checkpoint that speaks for a finished stage is, and there is an earlier one to go on from.

    One that is not the newest (the best of `predict.checkpoint=best`) is made by no update that is still to come.
    """
    name = read_finished(paths.stage(stage.ref)).checkpoint
    folder = paths.checkpoints(stage.ref)
    names = sorted(each.name for each in folder.iterdir() if layout.step_of(each.name) is not None)
    if len(names) < 2 or names[-1] != name:
        return False
    try:
        verify_checkpoint(folder / name)
    except StorageSilent:
        # Whoever reads it next says so.
        return False
    except StorageError:
        return True
    return False
