"""Reads members' learning curves from their stages' metrics.jsonl."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from orchestrator.plan import Plan
from orchestrator.run import Follower, RunPaths


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
    newest, found = dict[int, float](), {}
    for epoch in sorted({epoch for one in members for epoch in one}):
        newest |= {place: one[epoch] for place, one in enumerate(members) if epoch in one}
        if len(newest) == len(members) > 1:
            found[epoch] = fmean(newest.values())
    return found
