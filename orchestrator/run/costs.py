"""Sums what each member has cost: the time of all attempts, lost ones too, on the cores of its workers."""

from collections.abc import Sequence

from orchestrator.plan import Plan, PredictJob, StageRef, TrainJob
from orchestrator.run.ledger import Attempt, Entry, read_ledger
from orchestrator.run.metrics import Follower
from orchestrator.run.paths import RunPaths


def core_seconds(paths: RunPaths, plan: Plan, threads: int) -> dict[str, float | None]:
    """Returns the core-seconds of each member's stages and predictions; None if the ledger
    lacks one of the stages, or the member is from outside.

    The cost of a stage is shared equally by the members of `plan` that start from it.
    """
    ledger = read_ledger(paths.ledger)
    users: dict[StageRef, list[str]] = {}
    for member in plan.trained:
        for one in (last := plan.last_stage(member), *plan.ancestors(last)):
            users.setdefault(one.ref, []).append(member)
    # Another tool's work is not known.
    costs: dict[str, float | None] = dict.fromkeys(plan.members)
    costs |= {member: _seconds(ledger.entry(PredictJob(plan.last_stages[member]))) for member in plan.trained}
    for stage in plan.stages:
        own = users.get(stage.ref, ())
        entry = ledger.entry(TrainJob(stage.ref))
        is_open = any(attempt.ended is None for attempt in entry.attempts)
        times = [point.time for point in Follower(paths.metrics(stage.ref)).read()] if is_open else []
        for member in own:
            known = costs[member]
            costs[member] = None if known is None or not entry.attempts else known + _seconds(entry, times) / len(own)
    return {member: None if cost is None else round(threads * cost, 3) for member, cost in costs.items()}


def _seconds(entry: Entry, times: Sequence[float] = ()) -> float:
    return sum(one.width * (end - one.started) for one, end in timed_attempts(entry, times))


def timed_attempts(entry: Entry, times: Sequence[float]) -> list[tuple[Attempt, float]]:
    """Returns attempts with their ends; of earlier releases and a driver that died, `times` of metrics tell them."""
    starts, found = [*(attempt.started for attempt in entry.attempts[1:]), float("inf")], []
    for attempt, following in zip(entry.attempts, starts, strict=False):
        seen = [time for time in times if attempt.started <= time < following]
        found.append((attempt, max(seen, default=attempt.started) if attempt.ended is None else attempt.ended))
    return found
