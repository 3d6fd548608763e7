"""Says which members can end within a time, and which of them go first so that most do. Pure."""

from bisect import bisect_left
from collections.abc import Collection, Mapping

from orchestrator.plan.halving import estimate_halved
from orchestrator.plan.model import Plan, StageRef
from orchestrator.plan.schedule import simulate
from orchestrator.plan.widths import Widths
from orchestrator.text import counted, duration
from workers.settings import HELD_OUT, Crops

# Kept for the last updates and checkpoints, the submission and the report; of a short budget, a share.
_RESERVE_S, _RESERVED_SHARE = 300.0, 0.1
# Views of an image, each of which takes at most half as long as an update on it.
_VIEWS = {Crops.centre: 1, Crops.flip: 2, Crops.ten: 10, Crops.five_scales: 100}


def usable_s(limit_s: float) -> float:
    """Returns the part of a budget of `limit_s` seconds in which members may train and predict."""
    return limit_s - min(_RESERVE_S, _RESERVED_SHARE * limit_s)


def predicting_s(plan: Plan, ref: StageRef, stage_s: float, crops: Crops) -> float:
    """Returns an upper bound of the time in which a member predicts, whose last stage takes `stage_s` seconds."""
    if plan.last_stages[ref.member] != ref:
        return 0.0
    stage, counts, own = plan.stage(ref), plan.target.counts, plan.fold(ref.member)
    num_images = sum(counts.get(split, 0) for split in HELD_OUT) + (counts.get("train", 0) // own.k if own.k else 0)
    return stage_s * num_images * _VIEWS[crops] / (2 * stage.num_images * stage.recipe.schedule.epochs)


def needed_by(plan: Plan, members: Collection[str]) -> frozenset[StageRef]:
    """Returns the stages of `members`, and those that have to be done before."""
    return frozenset(job.ref for member in members for job in plan.requires(plan.last_stage(member)))


def choose_first(
    plan: Plan,
    seconds: Mapping[StageRef, float],
    limit_s: float,
    num_slots: int,
    running: Collection[StageRef] = (),
    before: Collection[str] = (),
) -> frozenset[str]:
    """Returns the members that go before others: all, unless more members end within `limit_s` if some wait.

    `seconds` are those that are left of each stage that may train, a last stage's predictions included. Members that
    went first `before` still do, unless others gain something. Stages that are `running` hold a slot.
    """
    needs = {name: needed_by(plan, [name]) & seconds.keys() for name, ref in plan.last_stages.items() if ref in seconds}

    def left(members: Collection[str]) -> dict[StageRef, float]:
        return {ref: seconds[ref] for member in members for ref in needs[member]}

    def num_ending(members: Collection[str]) -> int:
        ends = simulate(plan, left(members), num_slots, running)
        return sum(ends[plan.last_stages[member]] <= limit_s for member in members)

    every, shortest = frozenset(needs), sorted(needs, key=lambda member: sum(left([member]).values()))

    def fail(num: int) -> bool:
        members = shortest[:num]
        return sum(left(members).values()) > num_slots * limit_s or num_ending(members) < num

    most = shortest[: bisect_left(range(1, len(shortest) + 1), True, key=fail)]
    best = max((every.intersection(before), every, frozenset(most)), key=num_ending)
    return best if num_ending(best) else every


def budget_line(plan: Plan, seconds: Mapping[StageRef, float], hours: float, num_slots: int, crops: Crops) -> str:
    """Returns a line on what ends within `hours`, given the seconds in which each stage trains, if they are known."""
    heading, limit_s = f"budget: {hours:g} h", usable_s(hours * 3600)
    if len(seconds) < len(plan.stages):
        return f"{heading}: no rate measured, so what fits is not known"
    if plan.rungs:
        # Wider members only end sooner.
        most_s = estimate_halved(plan, seconds, num_slots, Widths()).makespan_s
        return (
            f"{heading}: the sweep {'ends' if most_s <= limit_s else 'may not end'} (at most about {duration(most_s)})"
        )
    whole = {ref: stage_s + predicting_s(plan, ref, stage_s, crops) for ref, stage_s in seconds.items()}
    first = needed_by(plan, choose_first(plan, whole, limit_s, num_slots))
    ends = simulate(plan, whole, num_slots, first=first)
    # Others give their slots up to these.
    ends |= simulate(plan, {ref: whole[ref] for ref in first}, num_slots)
    last = {member: ends[ref] for member, ref in plan.last_stages.items()}
    in_time = [end_s for end_s in last.values() if end_s <= limit_s]
    about = f" (about {duration(max(in_time))})" if in_time else ""
    if len(in_time) == len(last):
        return f"{heading}: all {counted(len(last), 'member')} end{about}"
    shares = list[int]()
    for member in (name for name in last if last[name] > limit_s):
        own = [stage.ref for stage in plan.stages_of(member)]
        left_s = sum(min(max(ends[ref] - limit_s, 0.0), whole[ref]) for ref in own)
        shares.append(round(100 * (1 - left_s / sum(whole[ref] for ref in own))))
    reached = " to ".join(f"{share} %" for share in sorted({min(shares), max(shares)}))
    return f"{heading}: {len(in_time)} of {counted(len(last), 'member')} end{about}; the others reach {reached}"
