"""Tells from what this launch has done how long stages still take."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from operator import mul
from statistics import median

from orchestrator.plan import Plan, Stage, StageRef, TrainJob, Widths, multiply_adds
from orchestrator.run import Ledger


@dataclass(frozen=True)
class Left:
    """The seconds that one worker takes for a whole stage, and for the rest of it."""

    whole_s: float
    rest_s: float


class Pace:
    """Measures by the ledger's attempts, with `clock` for those that run, in Unix seconds."""

    def __init__(self, plan: Plan, widths: Widths, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._plan, self._widths, self._ledger, self._clock = plan, widths, ledger, clock
        self.costs = multiply_adds(plan)

    def left(self, stages: Collection[Stage], least_s: float = 0.0) -> tuple[dict[StageRef, Left], bool]:
        """Returns what is left of `stages`, and whether any rate is known; else multiply-adds stand for seconds.

        A stage without a rate of its own has that of another with the same net, else the median. A rate includes the
        start of its stage, so it is believed after `least_s` seconds.
        """
        rates, found = self._rates(least_s), dict[StageRef, Left]()
        usual = median(rates.values()) if rates else 1.0
        for stage in stages:
            ref, attempts = stage.ref, self._ledger.entry(TrainJob(stage.ref)).attempts
            whole_s = self.costs[ref] * (rates.get(ref) or rates.get(str(stage.recipe.model)) or usual)
            share = 1 - attempts[-1].last_step / stage.num_updates if attempts else 1.0
            found[ref] = Left(whole_s, whole_s * max(0.0, share))
        return found, bool(rates)

    def _rates(self, least_s: float) -> dict[object, float]:
        """Returns the seconds that a multiply-add took one worker in this launch, by stage and by net."""
        rates, contents = dict[object, float](), self._ledger.contents
        for stage in self._plan.stages:
            tried = [one for one in contents.entry(TrainJob(stage.ref)).attempts if one.launch == contents.launch]
            spent = [(one.ended or self._clock()) - one.started for one in tried]
            num_updates = sum(one.last_step - one.resumed_from for one in tried)
            if num_updates > 0 and sum(spent) >= least_s:
                speeds = [self._widths.speed(stage, one.width) for one in tried]
                rate = sum(map(mul, spent, speeds)) / num_updates * stage.num_updates / self.costs[stage.ref]
                rates[stage.ref] = rates[str(stage.recipe.model)] = rate
        return rates
