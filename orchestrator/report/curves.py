"""Reads members' learning curves from their stages' metrics.jsonl."""

from dataclasses import dataclass

from orchestrator.plan import Plan
from orchestrator.run import Follower, RunPaths


@dataclass(frozen=True)
class Series:
    """One metric over time: epochs, and errors in [0, 1]."""

    epochs: tuple[float, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """A member's stages in sequence; `starts` are the epochs at which its second, third … stage begin."""

    member: str
    pretrained: bool
    train: Series
    val: Series
    starts: tuple[float, ...]


def read_curves(paths: RunPaths, plan: Plan) -> tuple[Curve, ...]:
    """Returns the curves of every member and student, as far as they have been written."""
    return tuple(_read_curve(paths, plan, member) for member in dict.fromkeys((*plan.trained, *plan.students)))


def _read_curve(paths: RunPaths, plan: Plan, member: str) -> Curve:
    series: dict[str, list[tuple[float, float]]] = {"train/top1_error": [], "val/top1_error": []}
    starts: list[float] = []
    begin = 0.0
    for stage in plan.stages_of(member):
        if begin:
            starts.append(begin)
        points = Follower(paths.metrics(stage.ref)).read()
        for point in points:
            for name, found in series.items():
                if name in point.metrics:
                    found.append((begin + point.epoch, point.metrics[name]))
        begin += max((point.epoch for point in points), default=0.0)
    train, val = (
        Series(tuple(epoch for epoch, _ in found), tuple(error for _, error in found)) for found in series.values()
    )
    return Curve(member, plan.is_pretrained(member), train, val, tuple(starts))
