"""Shows how a run went, as parts of the page: how its members learned, and what ran when, where and how fast."""

from collections.abc import Iterator
from statistics import median

import numpy as np

from orchestrator.plan import StageRef
from orchestrator.report.curves import ensemble_curve, mean_curve, read_curves
from orchestrator.report.evidence import Evidence
from orchestrator.report.figures import Kind, Stretch, lines_chart, schedule_chart
from orchestrator.report.sections import Section, Table
from orchestrator.run import AttemptEnd, Contents, Follower, read_ledger, timed_attempts
from orchestrator.text import counted, duration
from workers.storage import layout

_MEASURES = {f"{split}/top1_error": f"top-1 error on {split}, %" for split in ("train", "dev", "val")}
_MEASURES |= {"train/loss": "loss in training", "lr": "learning rate"}
_FAILED = (AttemptEnd.lost, AttemptEnd.failed, AttemptEnd.diverged, AttemptEnd.refused)
_MOST_ROWS, _MOST_LAUNCHES = 60, 3


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
    paths, lasts = evidence.paths, evidence.plan.last_stages.values()
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
