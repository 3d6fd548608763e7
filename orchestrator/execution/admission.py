"""Ends the other members of a recipe once one more is not worth its training. All that it knows is in the ledger.

The decision after a recipe's k-th member looks at its first k members alone, in the plan's order. So it is the same
whichever of them was there first, and a member that was quicker than the decision against it is not used.
"""

import math
from collections.abc import Collection
from dataclasses import replace

from orchestrator.combine import open_predictions
from orchestrator.execution.jobs import Work
from orchestrator.plan import StageRef, recipes
from orchestrator.run import Book, Decision, Ledger, read_run_data

_SPLIT = "dev"


class Admission:
    """Decides how many members of each recipe are trained; without a worth, all of them."""

    def __init__(self, work: Work, ledger: Ledger, book: Book) -> None:
        self._work, self._ledger, self._book = work, ledger, book
        self._recipes = recipes(work.plan, work.without) if work.admit.worth is not None else ()

    @property
    def ended(self) -> frozenset[StageRef]:
        """The stages that only members need which are not admitted."""
        return self._work.plan.needed_only_by(self._ledger.contents.not_admitted)

    def decide(self, predicted: Collection[str]) -> frozenset[StageRef]:
        """Decides after each of a recipe's members that is `predicted` with all before it; returns stages that now end.

        The ledger has it when this returns. Decisions by other settings or predictions are forgotten.
        """
        decisions, admit, known = [], self._work.admit, self._ledger.contents.admission
        for recipe in self._recipes:
            for num in range(2, len(recipe)):
                members = {name: self._book.committed.of_predictions(name, _SPLIT) for name in recipe[:num]}
                asked = Decision(members, self._work.metric, admit.worth or 0.0, admit.confidence)
                same = [one for one in known if replace(one, gain=None, ended=()) == asked]
                if not same and not set(members) <= set(predicted):
                    break
                gain = same[0].gain if same else self._gain(members)
                # By the law of averages no gain is below 0: with a worth of 0 all are trained.
                ends = gain is not None and max(gain[-1], 0.0) < asked.worth
                decisions.append(replace(asked, gain=gain, ended=recipe[num:] if ends else ()))
                if ends:
                    break
        before = self.ended
        if tuple(decisions) != known:
            after = self._work.plan.needed_only_by([name for one in decisions for name in one.ended])
            self._ledger.decide(before - after, after - before, tuple(decisions))
        return self.ended - before

    def review(self) -> list[StageRef]:
        """Decides afresh by what is known; returns the stages that are not ended any more."""
        before = self.ended
        self.decide(())
        return sorted(before - self.ended)

    def later(self, over: Collection[str], num_slots: int) -> frozenset[StageRef]:
        """Returns stages that wait until earlier members, but those that are `over`, leave one of the slots free."""
        waiting = {one for recipe in self._recipes for one in [name for name in recipe if name not in over][num_slots:]}
        return self._work.plan.needed_only_by(waiting | self._ledger.contents.not_admitted.keys())

    def _gain(self, members: Collection[str]) -> tuple[float, ...] | None:
        # Imported here, since scikit-learn takes a second.
        from orchestrator.fitting import estimate_gain

        paths, data, committed = self._work.paths, read_run_data(self._work.paths.data), self._book.committed
        folders, rows = {name: paths.predictions(name) for name in members}, data.splits[_SPLIT]
        opened = open_predictions(folders, rows, len(data.classes), data.digest, committed=committed)
        found = estimate_gain(opened, data.labels(_SPLIT), self._work.metric, self._work.admit.confidence)
        gain = tuple(round(value, 6) + 0.0 for value in (found.estimate, found.low, found.high))
        return gain if all(map(math.isfinite, gain)) else None
