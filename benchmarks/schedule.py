"""Simulates plans whose members have several workers, beside their lower bound and beside one worker each.

Nothing is timed: the figures follow from the plans and the speed-up curve, so they are the same on every machine.
Another curve: `python -m benchmarks.schedule 1 1.8 3.2 5.6`, the speed-ups of 1, 2, 4 and 8 workers.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace

from benchmarks import table
from benchmarks.row import Measure, Row, Settings, Spread, Wanted
from orchestrator.config import compose
from orchestrator.inputs import survey_all
from orchestrator.plan import Plan, StageRef, Widths, estimate_moldable, make_plan, multiply_adds
from orchestrator.plan.schedule import remaining_path
from orchestrator.plan.widths import ASSUMED, Curve

_HOUR = 3600.0
# The longest member alone; in 2012 one took five to six days.
_LONGEST_H = 127.0
_SHARDS = 8
# (copies of the seven members, slots)
_CASES = ((1, 8), (1, 16), (1, 32), (40, 256), (143, 1000))
_MOST = 1.1


def published(copies: int = 1) -> tuple[Plan, dict[StageRef, float]]:
    """Returns the plan of ILSVRC-2012 and the seconds of its stages at one worker.

    Copies of its members are 0.5 to 1.5 times as long, by their number.
    """
    config = compose(["experiment=ilsvrc2012", f"optimizer.shards={_SHARDS}"])
    plan = make_plan(config, survey_all(config, allow_absent=True))
    work = multiply_adds(plan)
    unit = _LONGEST_H * _HOUR / max(remaining_path(plan, work).values())
    stages, seconds = [], {}
    for number in range(copies):
        factor = 0.5 + number * 7919 % 1000 / 1000 if copies > 1 else 1.0
        for stage in plan.stages:
            ref = _copy(stage.ref, number)
            stages.append(replace(stage, ref=ref, init_from=stage.init_from and _copy(stage.init_from, number)))
            seconds[ref] = work[stage.ref] * unit * factor
    last = {stage.ref.member: stage.ref for stage in stages}
    return replace(plan, stages=tuple(stages), members=tuple(last), last_stages=last), seconds


def _copy(ref: StageRef, number: int) -> StageRef:
    return replace(ref, member=f"{ref.member}-{number}") if number else ref


def first_come(plan: Plan, seconds: Mapping[StageRef, float], num_slots: int) -> float:
    """Returns the makespan with one worker a member, in the order of the plan."""
    ends: dict[StageRef, float] = {}
    free = [0.0] * num_slots
    waiting = list(plan.stages)
    while waiting:
        # The first that can start earliest; a stage comes after the one that it starts from.
        known = [stage for stage in waiting if stage.after is None or stage.after in ends]
        slot = min(range(num_slots), key=lambda number: free[number])
        begins = [max(free[slot], ends[one.after] if one.after else 0.0) for one in known]
        stage, begin = known[begins.index(min(begins))], min(begins)
        waiting.remove(stage)
        ends[stage.ref] = free[slot] = begin + seconds[stage.ref]
    return max(ends.values())


def rows(curve: Curve = ASSUMED) -> tuple[Row, ...]:
    """Returns a row for each case: hours with widths, in turn with one worker each, and the lower bound."""
    found = []
    for copies, num_slots in _CASES:
        plan, seconds = published(copies)
        wide = estimate_moldable(plan, seconds, num_slots, Widths(1, _SHARDS, curve=curve))
        narrow, bound = first_come(plan, seconds, num_slots) / _HOUR, wide.lower_bound_s / _HOUR
        ratio = wide.makespan_s / wide.lower_bound_s
        share = sum(seconds.values()) / num_slots / _HOUR
        note = f"{share:.1f} h of work a slot; beside: one worker each, in the plan's order"
        name = f"{len(plan.members)} members on {num_slots} slots: simulated time over the moldable bound"
        wanted = Wanted(_MOST, at_least=False)
        spread = Spread(ratio, ratio, ratio)
        found.append(Row(name, "h", wide.makespan_s / _HOUR, narrow, bound, spread, Measure.times, wanted, 1, note))
    return tuple(found)


def run(settings: Settings) -> tuple[Row, ...]:
    """Simulates with the speed-ups that `septet plan` assumes."""
    del settings
    return rows()


if __name__ == "__main__":
    given = [float(word) for word in sys.argv[1:]]
    print(table.markdown(rows(tuple(zip((1, 2, 4, 8), given, strict=True)) if given else ASSUMED)))
