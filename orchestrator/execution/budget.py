"""Keeps a launch within `budget.hours`: when it has to stop, and which members go first because they can end.

Before the launch has a rate (`pace`), nothing is decided.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from math import inf

import psutil

from orchestrator.execution.jobs import Work
from orchestrator.execution.pace import Pace
from orchestrator.plan import (
    Plan,
    StageRef,
    choose_first,
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

    def __init__(self, work: Work, ledger: Ledger, clock: Callable[[], float], pace: Pace) -> None:
        self._work, self._clock, self._pace = work, clock, pace
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
        left, is_known = self._pace.left(plan.stages, min(_RATED_S, self._limit_s / 20))
        found = dict[StageRef, float]()
        for stage in plan.stages if is_known else ():
            ref, own = stage.ref, left[stage.ref]
            rest_s = 0.0 if ref in done else own.rest_s / self._work.widths.speed(stage, width)
            after_s = predicting_s(self._work.plan, ref, own.whole_s, self._work.crops)
            found[ref] = rest_s + (0.0 if ref in predicted else after_s)
        return {ref: left_s for ref, left_s in found.items() if left_s}
