"""Keeps a launch within `budget.hours`: when it has to stop, and which members go first because they can end.

The time that a stage takes follows from its rate in this launch; of one that has none, from its multiply-adds and the
rate of a stage with the same net, else of all. Before there is a rate, nothing is decided.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from math import inf
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
        self, plan: Plan, done: Refs, predicted: Refs, running: frozenset[StageRef], num_slots: int
    ) -> tuple[Plan, ...]:
        """Returns the part of `plan` whose stages start first, then all of it, and sets `yielding`.

        A halved sweep has no such part: each of its rungs waits for all points.
        """
        if self._ends is None or plan.rungs:
            return (plan,)
        if self._clock() - self._decided >= min(_DECIDE_EVERY_S, self._limit_s / 100):
            seconds, self._decided = self._seconds(plan, done, predicted), self._clock()
            self._first = choose_first(self._work.plan, seconds, self._left_s, num_slots, running, self._first)
            self._needed = needed_by(self._work.plan, self._first)
        first = replace(plan, stages=tuple(one for one in plan.stages if one.ref in self._needed))
        waiting = ready(first, done, running & self._needed, num_slots, predicted=predicted)
        others = sorted(ref.member for ref in running - self._needed if ref not in done)
        self.yielding = frozenset(others[: max(0, len(waiting) - (num_slots - len(running)))])
        return (first, plan)

    def _seconds(self, plan: Plan, done: Refs, predicted: Refs) -> dict[StageRef, float]:
        """Returns what is left of each stage of `plan`, its member's predictions included; nothing without a rate."""
        rates, costs, found = self._rates(), multiply_adds(plan), {}
        for stage in plan.stages if rates else ():
            ref, attempts = stage.ref, self._ledger.entry(TrainJob(stage.ref)).attempts
            own = rates.get(ref) or rates.get(str(stage.recipe.model)) or median(rates.values())
            left = 0.0 if ref in done else 1 - (attempts[-1].last_step if attempts else 0) / stage.num_updates
            after_s = predicting_s(self._work.plan, ref, costs[ref] * own, self._work.crops)
            found[ref] = costs[ref] * own * left + (0.0 if ref in predicted else after_s)
        return {ref: left_s for ref, left_s in found.items() if left_s}

    def _rates(self) -> dict[object, float]:
        """Returns the seconds that a multiply-add took in this launch, by stage and by net."""
        rates, costs, contents = dict[object, float](), multiply_adds(self._work.plan), self._ledger.contents
        for stage in self._work.plan.stages:
            tried = [one for one in contents.entry(TrainJob(stage.ref)).attempts if one.launch == contents.launch]
            spent_s = sum((one.ended or self._clock()) - one.started for one in tried)
            num_updates = sum(one.last_step - one.resumed_from for one in tried)
            if num_updates and spent_s >= min(_RATED_S, self._limit_s / 20):
                rate = spent_s / num_updates * stage.num_updates / costs[stage.ref]
                rates[stage.ref] = rates[str(stage.recipe.model)] = rate
        return rates
