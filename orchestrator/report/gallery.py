"""Draws all figures of a report that a run has the numbers for."""

from collections.abc import Sequence

from orchestrator.combine import Interval
from orchestrator.plan import Plan
from orchestrator.report.curves import read_curves
from orchestrator.report.figures import Bar, Drawing, learning_curves, member_errors, reliability_diagram
from orchestrator.report.reliability import Reliability
from orchestrator.report.table import SplitScores
from orchestrator.run import RunPaths


def draw_all(paths: RunPaths, plan: Plan, scores: Sequence[SplitScores]) -> tuple[Drawing, ...]:
    """Draws what there is; the first of `scores`, if any, is the main split. Names are those of the files."""
    drawings = [learning_curves(read_curves(paths, plan))]
    if scores:
        drawings += [_errors(plan, scores[0]), _reliability(scores[0])]
    return tuple(drawings)


def calibration_states(scores: SplitScores) -> dict[str, Reliability]:
    """Returns how the ensemble is calibrated, before and after it was, as far as there is such a state."""
    found = {"before": scores.calibrated.before, "after": scores.calibrated.after}
    return {name: one for name, one in found.items() if one is not None}


def _reliability(scores: SplitScores) -> Drawing:
    states = calibration_states(scores)
    panels = {f"{name} calibration" if len(states) > 1 else "the ensemble": found for name, found in states.items()}
    return reliability_diagram(panels, scores.split)


def _errors(plan: Plan, scores: SplitScores) -> Drawing:
    # Out of fold, a recipe stands for its members.
    members = {voter: member for member, voter in plan.voters.items()} | {member: member for member in plan.members}

    def bar(name: str, error: Interval, *, averaged: bool) -> Bar:
        return Bar(name, error, not averaged and plan.is_pretrained(members[name]), averaged)

    bars = [bar(member, own, averaged=False) for member, own in scores.intervals.items()]
    bars += [bar(one.row.name, one.compared.error, averaged=True) for one in scores.rows if one.row.averaged]
    if scores.combined_as:
        bars.append(bar(f"ensemble, {scores.combined_as}", scores.ensemble_compared.error, averaged=True))
    return member_errors(bars)
