"""Keeps a launch within `budget.hours`: when it has to stop, and which members go first because they can end.

The time that a stage takes follows from its rate in this launch; of one that has none, from its multiply-adds and the
rate of a stage with the same net, else of all. Before there is a rate, nothing is decided.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from math import inf
from operator import mul
from statistics import median

import psutil

from orchestrator.execution.jobs import Work
from orchestrator.plan import (
    Plan,
    StageRef,
    TrainJob,
    choose_first,
    multiply_adds,
    needed_by,
    predicting_s,
    ready,
    usable_s,
)
from orchestrator.run import Ledger

# A rate includes its stage's start, which takes some seconds, so it is believed after this time.
_RATED_S, _DECIDE_EVERY_S = 60.0, 30.0
Refs = Collection[StageRef]


def ends_at(hours: float | None) -> float | None:
    """Returns when a budget ends, in Unix seconds: a session's or a queue's limit counts from this process's start."""
    return None if hours is None else float(psutil.Process().create_time()) + hours * 3600


class Budget:
    """Holds the budget of a launch; without one, nothing ends and nothing goes first. `clock` returns Unix seconds.

    `yielding` are members that give up their slots to others, which can still end.
    """

    def __init__(self, work: Work, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._work, self._ledger, self._clock = work, ledger, clock
        self._ends, self._limit_s = ledger.contents.budget_ends, (work.hours or 0.0) * 3600
        self._decided, self._first, self._needed = -inf, frozenset[str](), frozenset[StageRef]()
        self.yielding = frozenset[str]()

    @property
    def _left_s(self) -> float:
        reserve_s = self._limit_s - usable_s(self._limit_s)
        return inf if self._ends is None else self._ends - self._clock() - reserve_s

    @property
    def is_spent(self) -> bool:
        """Returns whether what is left is needed to save checkpoints, and to write the submission."""
        return self._left_s <= 0

    def in_order(
        self, plan: Plan, done: Refs, predicted: Refs, running: Mapping[StageRef, int], num_slots: int
    ) -> tuple[Plan, ...]:
        """Returns the part of `plan` whose stages start first, then all of it, and sets `yielding`.

        `running` are the widths of running stages. A halved sweep has no such part: each of its rungs waits for all
        points.
        """
        if self._ends is None or plan.rungs:
            return (plan,)
        widths = self._work.widths
        if self._clock() - self._decided >= min(_DECIDE_EVERY_S, self._limit_s / 100):
            # As if all members were equally wide.
            num_members = len({stage.ref.member for stage in plan.stages if stage.ref not in done})
            width = min(max(num_slots // max(num_members, 1), widths.least), widths.most)
            seconds, self._decided = self._seconds(plan, done, predicted, width), self._clock()
            at_once = max(num_slots // width, 1)
            self._first = choose_first(self._work.plan, seconds, self._left_s, at_once, running, self._first)
            self._needed = needed_by(self._work.plan, self._first)
        first = replace(plan, stages=tuple(one for one in plan.stages if one.ref in self._needed))
        at_once = max(num_slots // widths.least, 1)
        waiting = ready(first, done, running.keys() & self._needed, at_once, predicted=predicted)
        lacking, yielding = widths.least * len(waiting) - (num_slots - sum(running.values())), set[str]()
        for ref in sorted(running.keys() - self._needed - {*done}, key=str):
            if lacking > 0:
                yielding.add(ref.member)
                lacking -= running[ref]
        self.yielding = frozenset(yielding)
        return (first, plan)

    def _seconds(self, plan: Plan, done: Refs, predicted: Refs, width: int) -> dict[StageRef, float]:
        """Returns what is left of each stage at `width`, its member's predictions included; nothing without a rate."""
        rates, costs, found = self._rates(), multiply_adds(plan), {}
        for stage in plan.stages if rates else ():
            ref, attempts = stage.ref, self._ledger.entry(TrainJob(stage.ref)).attempts
            own = rates.get(ref) or rates.get(str(stage.recipe.model)) or median(rates.values())
            left = 0.0 if ref in done else 1 - (attempts[-1].last_step if attempts else 0) / stage.num_updates
            after_s = predicting_s(self._work.plan, ref, costs[ref] * own, self._work.crops)
            left_s = costs[ref] * own * left / self._work.widths.speed(stage, width)
            found[ref] = left_s + (0.0 if ref in predicted else after_s)
        return {ref: left_s for ref, left_s in found.items() if left_s}

    def _rates(self) -> dict[object, float]:
        """Returns the seconds that a multiply-add took one worker in this launch, by stage and by net."""
        rates, costs, contents = dict[object, float](), multiply_adds(self._work.plan), self._ledger.contents
        for stage in self._work.plan.stages:
            tried = [one for one in contents.entry(TrainJob(stage.ref)).attempts if one.launch == contents.launch]
            spent = [(one.ended or self._clock()) - one.started for one in tried]
            num_updates = sum(one.last_step - one.resumed_from for one in tried)
            if num_updates and sum(spent) >= min(_RATED_S, self._limit_s / 20):
                speeds = [self._work.widths.speed(stage, one.width) for one in tried]
                rate = sum(map(mul, spent, speeds)) / num_updates * stage.num_updates / costs[stage.ref]
                rates[stage.ref] = rates[str(stage.recipe.model)] = rate
        return rates
