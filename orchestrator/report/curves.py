"""Reads how members learned from their stages' metrics.jsonl, and the ensemble from the answers that they kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from orchestrator.plan import Plan
from orchestrator.report.evidence import Evidence
from orchestrator.run import Follower, RunPaths
from workers.storage import layout


@dataclass(frozen=True)
class Curve:
    """A member's stages in sequence: its metrics by name and epoch; its later stages begin at the epochs `starts`."""

    member: str
    pretrained: bool
    series: Mapping[str, Mapping[float, float]]
    starts: tuple[float, ...]

    def last(self, metric: str) -> dict[float, float]:
        """Returns a metric in the member's last stage."""
        begin = max(self.starts, default=0)
        return {epoch: value for epoch, value in self.series.get(metric, {}).items() if epoch > begin}


def read_curves(paths: RunPaths, plan: Plan) -> tuple[Curve, ...]:
    """Returns the curves of every member and student, as far as they have been written."""
    return tuple(_read_curve(paths, plan, member) for member in dict.fromkeys((*plan.trained, *plan.students)))


def _read_curve(paths: RunPaths, plan: Plan, member: str) -> Curve:
    series: dict[str, dict[float, float]] = {}
    starts: list[float] = []
    begin = 0.0
    for stage in plan.stages_of(member):
        if begin:
            starts.append(begin)
        points = Follower(paths.metrics(stage.ref)).read()
        for point in points:
            for name, value in point.metrics.items():
                # Within an epoch these are of a part of it. Those of averaged weights come last, and stay.
                if float(point.epoch).is_integer() or not name.startswith("train/"):
                    series.setdefault(name, {})[begin + point.epoch] = value
        begin += max((point.epoch for point in points), default=0.0)
    return Curve(member, plan.is_pretrained(member), series, tuple(starts))


def mean_curve(members: Sequence[Mapping[float, float]]) -> dict[float, float]:
    """Returns the mean of members, once all have begun; one that has ended counts as it ended. Of one it is empty."""
    return {epoch: fmean(values) for epoch, values in _together(members).items()}


def ensemble_curve(evidence: Evidence, curves: Sequence[Curve], split: str) -> dict[float, float]:
    """Returns the top-1 error on a split of the plain mean of members, as in `mean_curve`, where all kept answers."""
    members, errors = [], {}
    for curve in curves:
        if curve.member in evidence.plan.trained:
            stage = evidence.paths.stage(evidence.plan.last_stage(curve.member).ref)
            found = {int(path.stem.rpartition("-")[2]): path for path in stage.glob(layout.answers(split, "*"))}
            members.append({max(curve.starts, default=0) + epoch: path for epoch, path in found.items()})
    read = lru_cache(len(members))(_read_answers)
    for epoch, files in _together(members).items():
        answers, labels = zip(*map(read, files), strict=True)
        # An extended stage keeps answers of fewer images than before.
        if all(np.array_equal(labels[0], own) for own in labels):
            errors[epoch] = float((sum(answers).argmax(axis=1) != labels[0]).mean())
    return errors


def _read_answers(path: Path) -> tuple[Any, Any]:
    with np.load(path, allow_pickle=False) as kept:
        return kept["probabilities"].astype(np.float32), kept["labels"]


def _together(members: Sequence[Mapping[float, Any]]) -> dict[float, list[Any]]:
    """Returns the newest values of all members at each epoch at which one changes, once all have one; none of one."""
    newest, found = dict[int, Any](), {}
    for epoch in sorted({epoch for one in members for epoch in one}):
        newest |= {place: one[epoch] for place, one in enumerate(members) if epoch in one}
        if len(newest) == len(members) > 1:
            found[epoch] = [*newest.values()]
    return found
