"""Finds the DONE.json of a stage. The only code that decides whether a stage is done."""

from orchestrator.plan import Stage
from orchestrator.run.paths import RunPaths
from workers.storage import Finished, read_finished


def find_finished(paths: RunPaths, stage: Stage) -> Finished | None:
    """Reads the stage's DONE.json; returns None if there is none, or if it is of another stage hash.

    Raises:
        StorageError: the file is damaged.
    """
    if not paths.done(stage.ref).exists():
        return None
    finished = read_finished(paths.stage(stage.ref))
    return finished if finished.stage_hash == stage.hash else None
