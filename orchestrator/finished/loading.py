"""A finished run in Python (`septet.load`): its ensemble on new images, and its report's numbers as pandas tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy import ndarray
from pandas import DataFrame
from PIL.Image import Image

from orchestrator.finished.ensemble import Given, LoadedEnsemble
from orchestrator.run import Follower, RunPaths
from orchestrator.submission import read_manifest
from workers.errors import ConfigError, DataError
from workers.storage import expanded, parse_json


class Figure(str):
    """A drawing of the report as SVG, which a notebook shows."""

    _repr_svg_ = str.__str__


class FinishedRun:
    """A finished run: `predict` takes images, `members`, `table` and `curves` are tables, `figure` gives a drawing."""

    def __init__(self, run_dir: str | Path, *, trust_code: bool = False) -> None:
        self._paths = RunPaths(expanded(run_dir))
        self._ensemble = LoadedEnsemble.open(self._paths, trust_code=trust_code)

    def predict(self, images: Given | Sequence[Given], top: int = 5) -> DataFrame:
        """Predicts images, a row each, as `septet predict --json` says it; raises DataError for one that is bad."""
        if top < 1:
            raise ConfigError(f"top={top}: give 1 or more")
        if isinstance(images, str | Path | bytes | Image) or (isinstance(images, ndarray) and images.ndim < 4):
            images = [images]
        names = [str(one) if isinstance(one, str | Path) else f"image {place}" for place, one in enumerate(images)]
        pixels = [self._ensemble.read(one, name) for one, name in zip(images, names, strict=True)]
        found = self._ensemble.describe(self._ensemble.predict(pixels), names, top) if pixels else ()
        return DataFrame([{**one, **one["top"][0]} for one in (each.to_json() for each in found)])

    @property
    def members(self) -> DataFrame:
        """Weight and checkpoint of each member, and its scores if images with labels are held out."""
        scores = self._scores.get("members", {})
        return DataFrame([{**asdict(one), **scores.get(one.name, {})} for one in read_manifest(self._paths).members])

    @property
    def table(self) -> DataFrame:
        """The paper's table, with the ensemble as it was combined in the last row; errors are in [0, 1]."""
        ensemble = {"name": "ensemble", "members": self._ensemble.members, **self._scores.get("ensemble", {})}
        return DataFrame([*self._scores.get("rows", []), ensemble])

    @property
    def curves(self) -> DataFrame:
        """All that was measured while members trained: member, stage, epoch, step, and a column a metric."""
        plan, read = self._ensemble.plan, self._paths.metrics
        refs = [stage.ref for member in plan.trained for stage in plan.stages_of(member)]
        points = [(ref, one) for ref in refs for one in Follower(read(ref)).read()]
        return DataFrame([{**asdict(ref), "epoch": one.epoch, "step": one.step, **one.metrics} for ref, one in points])

    def figure(self, name: str) -> Figure:
        """Returns a drawing of the report, such as "reliability"; raises DataError with those there are."""
        drawn = {path.stem: path for path in self._paths.figure(name).parent.glob("*.svg")}
        if name not in drawn:
            raise DataError(f"{name}: the report has no such figure, but {', '.join(sorted(drawn)) or 'none'}")
        return Figure(drawn[name].read_text(encoding="utf-8"))

    @property
    def _scores(self) -> Mapping[str, Any]:
        path = self._paths.report_scores
        return parse_json(path.read_bytes()) if path.is_file() else {}


load = FinishedRun
