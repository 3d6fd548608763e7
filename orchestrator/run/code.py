"""Keeps the code of users' nets in the run directory, where members import it: `code/<sha256 of its folder>/`."""

from dataclasses import replace
from pathlib import Path

from orchestrator.plan import Plan
from orchestrator.run.paths import RunPaths
from workers.models import read_sources
from workers.settings import Recipe
from workers.storage import replacing_folder


def keep_code(paths: RunPaths, plan: Plan) -> None:
    """Copies the folder of each net's file into the run directory; raises CheckFailed if it is not that of the plan."""
    for model in (stage.recipe.model for stage in plan.stages):
        folder = paths.code / model.code
        if model.file is None or folder.exists():
            continue
        with replacing_folder(folder) as copy:
            for name, source in read_sources(Path(model.file), model.code).items():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes(source)


def from_kept_code(paths: RunPaths, recipe: Recipe) -> Recipe:
    """Returns `recipe` with a net's file in the run directory, so that the original may move or change."""
    model = recipe.model
    kept = model.file and str(paths.code / model.code / Path(model.file).name)
    return replace(recipe, model=replace(model, file=kept))
