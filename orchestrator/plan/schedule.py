"""Chooses the stages to start next, and estimates the time of a whole plan. Pure.

It is list scheduling, longest remaining path first. A member is one process, so its stages run one at a time.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from orchestrator.plan.model import Plan, Stage, StageRef
from workers.models import outline


@dataclass(frozen=True)
class Estimate:
    """Holds the seconds of training from start to end, and a lower bound for every schedule."""

    makespan_s: float
    lower_bound_s: float


def ready(
    plan: Plan,
    done: Collection[StageRef],
    running: Collection[StageRef],
    num_slots: int,
    costs: Mapping[StageRef, float] | None = None,
    predicted: Collection[StageRef] | None = None,
) -> tuple[Stage, ...]:
    """Returns the stages to start now, most urgent first, at most as many as slots are free.

    Args:
        plan: the stages, without those that failed for good.
        done: stages whose results are committed.
        running: stages that hold a slot.
        num_slots: members that fit at once.
        costs: a stage's cost in any unit (default: multiply-adds of its training).
        predicted: last stages whose members have predicted, so that others can learn from them (default: `done`).
    """
    if len(running) >= num_slots:
        return ()
    taught = done if predicted is None else predicted
    costs = multiply_adds(plan) if costs is None else costs
    urgency = remaining_path(plan, costs)
    busy = {ref.member for ref in running}
    started: list[Stage] = []
    waiting = [stage for stage in plan.stages if stage.ref not in done and stage.ref not in running]
    for stage in sorted(waiting, key=lambda stage: -urgency[stage.ref]):
        if len(running) + len(started) >= num_slots:
            break
        waits = (stage.after is not None and stage.after not in done) or not set(stage.teachers) <= set(taught)
        if stage.ref.member in busy or waits:
            continue
        busy.add(stage.ref.member)
        started.append(stage)
    return tuple(started)


def estimate(plan: Plan, seconds: Mapping[StageRef, float], num_slots: int) -> Estimate:
    """Simulates the schedule of `plan`, given the seconds of each stage and the number of slots (at least 1)."""
    ends = simulate(plan, seconds, num_slots, costs=seconds)
    return Estimate(max(ends.values(), default=0.0), lower_bound(plan, seconds, num_slots))


def simulate(
    plan: Plan,
    seconds: Mapping[StageRef, float],
    num_slots: int,
    running: Collection[StageRef] = (),
    first: Collection[StageRef] = (),
    costs: Mapping[StageRef, float] | None = None,
) -> dict[StageRef, float]:
    """Returns when each stage of `plan` in `seconds` ends, longest path first, but those of `first` before others.

    Paths are in `costs` (default: multiply-adds). Stages that are `running` hold a slot from the start.
    """
    path, waits, before = remaining_path(plan, costs or multiply_adds(plan)), {}, dict[str, StageRef]()
    ranks = {one.ref: (one.ref not in first, -path[one.ref], n) for n, one in enumerate(plan.stages)}
    followers: dict[StageRef, list[StageRef]] = {}
    for stage in (one for one in plan.stages if one.ref in seconds):
        # A member's stages run one at a time.
        follows = {*stage.follows, before.get(stage.ref.member, stage.ref)} & seconds.keys() - {stage.ref}
        waits[stage.ref], before[stage.ref.member] = follows, stage.ref
        for one in follows:
            followers.setdefault(one, []).append(stage.ref)
    active = [(seconds[ref], ref) for ref in running if ref in waits]
    ready = [(ranks[ref], ref) for ref, follows in waits.items() if not follows and ref not in running]
    ends, now_s = dict[StageRef, float](), 0.0
    heapify(active)
    heapify(ready)
    while active or ready:
        while ready and len(active) < num_slots:
            ref = heappop(ready)[1]
            heappush(active, (now_s + seconds[ref], ref))
        now_s = active[0][0]
        while active and active[0][0] == now_s:
            over = heappop(active)[1]
            ends[over] = now_s
            for ref in followers.get(over, ()):
                waits[ref].discard(over)
                if not waits[ref] and ref not in running:
                    heappush(ready, (ranks[ref], ref))
    return ends


def lower_bound(plan: Plan, seconds: Mapping[StageRef, float], num_slots: int) -> float:
    """Returns the longest of: the longest chain, the busiest member, all work spread evenly over the slots."""
    longest_chain = max(remaining_path(plan, seconds).values(), default=0.0)
    busiest = max((sum(seconds[stage.ref] for stage in plan.stages_of(member)) for member in plan.members), default=0.0)
    return max(longest_chain, busiest, sum(seconds[stage.ref] for stage in plan.stages) / num_slots)


def remaining_path(plan: Plan, costs: Mapping[StageRef, float]) -> dict[StageRef, float]:
    """Returns the cost of the longest chain that starts with each stage."""
    longest_after: dict[StageRef, float] = {}
    path: dict[StageRef, float] = {}
    for stage in reversed(plan.stages):
        path[stage.ref] = costs[stage.ref] + longest_after.get(stage.ref, 0.0)
        for before in stage.follows:
            longest_after[before] = max(longest_after.get(before, 0.0), path[stage.ref])
    return path


def multiply_adds(plan: Plan) -> dict[StageRef, float]:
    """Returns the forward multiply-adds of each stage's training, a substitute for seconds that were not measured."""
    return {
        stage.ref: float(stage.num_images)
        * stage.recipe.schedule.epochs
        * outline(stage.recipe.model, stage.num_classes).num_macs
        for stage in plan.stages
    }
