"""Sums what each member has cost: the time of all attempts, lost ones too, on the cores of its workers."""

from collections import Counter
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
    chains = {member: (last := plan.last_stage(member), *plan.ancestors(last)) for member in plan.trained}
    num_users = Counter(stage.ref for chain in chains.values() for stage in chain)
    shares: dict[StageRef, float | None] = {}
    for ref in num_users:
        entry = ledger.entry(TrainJob(ref))
        is_open = any(attempt.ended is None for attempt in entry.attempts)
        times = [point.time for point in Follower(paths.metrics(ref)).read()] if is_open else []
        shares[ref] = _seconds(entry, times) / num_users[ref] if entry.attempts else None
    # Another tool's work is not known.
    costs: dict[str, float | None] = dict.fromkeys(plan.members)
    for member, chain in chains.items():
        own = [_seconds(ledger.entry(PredictJob(chain[0].ref))), *(shares[stage.ref] for stage in reversed(chain))]
        costs[member] = None if None in own else sum(filter(None, own))
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
