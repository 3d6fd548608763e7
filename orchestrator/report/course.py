"""Shows how a run went, as parts of the page: how its members learned, and what ran when, where and how fast."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from orchestrator.plan import Plan, StageRef
from orchestrator.report.evidence import Evidence
from orchestrator.report.figures import Kind, Stretch, lines_chart, schedule_chart
from orchestrator.report.sections import Section, Table
from orchestrator.run import AttemptEnd, Contents, Follower, RunPaths, read_ledger, timed_attempts
from orchestrator.text import counted, duration
from workers.storage import layout

_MEASURES = {f"{split}/top1_error": f"top-1 error on {split}, %" for split in ("train", "dev", "val")}
_MEASURES |= {"train/loss": "loss in training", "lr": "learning rate"}
_FAILED = (AttemptEnd.lost, AttemptEnd.failed, AttemptEnd.diverged, AttemptEnd.refused)
_MOST_ROWS, _MOST_LAUNCHES = 60, 3


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


def course(evidence: Evidence) -> Section | None:
    """Shows errors, loss and learning rate by epoch; None if no epoch of any member has ended."""
    curves, drawings = read_curves(evidence.paths, evidence.plan), []
    starts = {start for curve in curves for start in curve.starts}
    for metric, label in _MEASURES.items():
        lines = {one.member: one.series[metric] for one in curves if metric in one.series}
        kinds = [one.pretrained for one in curves if metric in one.series]
        mean = mean_curve([one.last(metric) for one in curves if one.member in evidence.plan.trained])
        lines |= {"mean of members": mean} if mean and metric != "lr" else {}
        together = ensemble_curve(evidence, curves, metric.partition("/")[0])
        lines |= {"the ensemble": together} if together else {}
        drawings += [lines_chart(metric.replace("/", "_"), "epoch", label, lines, kinds, starts)] if kinds else []
    return Section("course", "Learning curves", tuple(drawings)) if drawings else None


def schedule(evidence: Evidence) -> Section | None:
    """Shows what ran when and where, as the ledger has it, and how fast members were; None if neither is known."""
    read = {one.member: one.series for one in read_curves(evidence.paths, evidence.plan)}
    lines = tuple(
        (member, f"{median(series['images_per_second'].values()):,.0f}", f"{median(series['data_wait'].values()):.1%}")
        for member, series in read.items()
        if "data_wait" in series
    )
    tables = (Table(("", "images/s", "waiting for images"), lines, "Medians over training"),) if lines else ()
    ledger, drawings = read_ledger(evidence.paths.ledger), []
    by_member = len({key.partition("/")[0] for key in ledger.stages}) <= _MOST_ROWS
    for launch in range(max(1, ledger.launch - _MOST_LAUNCHES + 1), ledger.launch + 1):
        found = [*_stretches(evidence, ledger, launch, by_member=by_member)]
        kinds = [one.kind for one in found if one.kind != "kept checkpoint"]
        ended = f"{counted(len(kinds), 'attempt')}, {kinds.count('failed')} failed"
        caption = f"Launch {launch}, a row a {'member' if by_member else 'device'}: {ended}. Hovering says where."
        drawings += [schedule_chart(f"schedule_{launch}", found, caption)] if found else []
    return Section("schedule", "What ran when and where", tuple(drawings), tables) if drawings or lines else None


def _stretches(evidence: Evidence, ledger: Contents, launch: int, *, by_member: bool) -> Iterator[Stretch]:
    """Yields a launch's attempts, also of members that the plan does without, and the checkpoints that are kept."""
    paths, lasts = evidence.paths, frozenset(evidence.plan.last_stages.values())
    for key, entry in (*ledger.stages.items(), *ledger.predictions.items()):
        ref = StageRef.parse(key)
        points = Follower(paths.metrics(ref)).read() if ref.stage else ()
        names = [folder.name for folder in paths.checkpoints(ref).glob("*")] if points else []
        steps, times = [point.step for point in points], [point.time for point in points]
        of: Kind = "last stage" if ref in lasts else "earlier stage" if ref.stage else "prediction"
        for one, end in timed_attempts(entry, times):
            if one.launch != launch:
                continue
            row = ref.member if by_member else f"{one.where.machine}, {one.where.device}" if one.where else "unknown"
            kind: Kind = of if one.outcome is AttemptEnd.done else "failed" if one.outcome in _FAILED else "cut short"
            said = f"{key}: attempt {one.attempt + 1}, {duration(end - one.started)} on {one.where or 'unknown'}"
            yield Stretch(row, kind, one.started, end, f"{said}; {one.outcome} {one.error[:120]}")
            for step in filter(None, map(layout.step_of, names)):
                at = float(np.interp(step, steps, times))
                if one.started <= at <= end:
                    yield Stretch(row, "kept checkpoint", at, at, f"{key}: checkpoint after {counted(step, 'update')}")
