"""Logs members and ensemble of a finished run as models in MLflow, and compares the ensemble with a champion."""

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from orchestrator.finished.comparison import open_scores
from orchestrator.finished.exporting import export
from orchestrator.fitting import mean_interval
from orchestrator.plan import plan_from_json
from orchestrator.report import points
from orchestrator.run import RunPaths, read_record, read_run_data
from orchestrator.submission import read_manifest
from orchestrator.text import counted
from orchestrator.tracking import OUTCOMES, Models, Tracker
from workers.errors import SeptetError
from workers.storage import parse_json, sha256_of, write_json


def log_models(
    paths: RunPaths, register: str | None, tracker: Tracker, tell: Callable[[str], None], *, trust_code: bool
) -> None:
    """Logs each member with a net, and the ensemble, unless MLflow has them; registers the ensemble as `register`.

    MLflow never decides how a launch ends: `tell` gets a line for what fails, and one for the registered model.
    """
    digest, trained = sha256_of(paths.submission_manifest), plan_from_json(read_record(paths).plan).trained
    if (found := tracker.with_models("a search for models", lambda models: models.find(digest))) is None:
        tell("MLflow does not say which models it has: launch again to log them")
        return
    names = ["", *(one.name for one in read_manifest(paths).members if one.name in trained)]
    if lacking := [name for name in names if name not in found]:
        tell(f"MLflow: tracing {counted(len(lacking), 'model')}")
    outcomes = _outcomes(paths)
    for name in lacking:
        what = f"the model of {name or 'the ensemble'}"
        try:
            with tempfile.TemporaryDirectory(prefix="septet-model-") as holder:
                folder = Path(holder) / "model"
                export(paths, folder, ("pyfunc",), member=name or None, trust_code=trust_code)
                write_json(folder / OUTCOMES, {} if name else outcomes)
                log = partial(Models.log, member=name, folder=folder, digest=digest)
                if made := tracker.with_models(what, log):
                    found[name] = made
        except (SeptetError, OSError) as error:
            tell(f"MLflow lacks {what}: {error}")
    if register and (model := found.get("")):
        line = tracker.with_models(register, lambda models: models.register(model, register, partial(_stays, outcomes)))
        tell(f"MLflow: {line or f'{register} is not registered, launch again'}")


def _outcomes(paths: RunPaths) -> dict[str, float]:
    """Returns 1 for each labelled image of the main split that the ensemble gets wrong, else 0; {} without any."""
    if not read_run_data(paths.data).scored:
        return {}
    data, scores, _ = open_scores(paths)
    images = map("{} {}".format, data.splits[scores.split].rows, scores.labels)
    return dict(zip(images, scores.reading.wrong.tolist(), strict=True))


def _stays(ours: Mapping[str, float], champion: bytes) -> str:
    """Returns why a champion with these outcomes stays; "" if ours are surely fewer errors on the same images."""
    theirs = parse_json(champion) if champion else {}
    if not ours or ours.keys() != theirs.keys():
        return "the two were not scored on the same images"
    more = mean_interval(np.array([wrong - theirs[image] for image, wrong in ours.items()]))
    return "" if more.high < 0 else f"the error would change by {points(more)} points"
