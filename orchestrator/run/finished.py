"""Whether a stage of the plan is done: the one place that decides it."""

from orchestrator.plan import Stage
from orchestrator.run.paths import RunPaths
from workers.storage import Finished, read_finished


def find_finished(paths: RunPaths, stage: Stage) -> Finished | None:
    """Reads the DONE.json of exactly this stage; None where the stage is not done, or one of another hash was.

    Raises:
        StorageError: the file is damaged.
    """
    if not paths.done(stage.ref).exists():
        return None
    finished = read_finished(paths.stage(stage.ref))
    return finished if finished.stage_hash == stage.hash else None
