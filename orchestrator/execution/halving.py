"""Leads the points of a halved sweep from rung to rung. All that it knows is in the plan and the ledger."""

from orchestrator.plan import Plan, StageRef, TrainJob, choose_best
from orchestrator.run import AttemptEnd, Ledger, RunPaths, State
from workers.errors import CheckFailed
from workers.storage import newest_step


class Halving:
    """Says how far each point trains now, and decides who continues; without rungs, every stage trains to its end."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._plan, self._ledger = plan, ledger
        self._points = frozenset(plan.last_stages.values() if plan.rungs else ())

    def require_ledger(self, paths: RunPaths) -> None:
        """Raises CheckFailed if this is the ledger's first launch, and points have trained before it."""
        if self._ledger.contents.launch == 1 and any(newest_step(paths.checkpoints(ref)) for ref in self._points):
            lost = "it held what the rungs of the sweep decided; restore it, or give another run_dir"
            raise CheckFailed(f"{paths.ledger}: was deleted, and {lost}")

    def points(self, *states: State) -> frozenset[StageRef]:
        """Returns the points in one of `states`."""
        return frozenset(ref for ref in self._points if self._ledger.entry(TrainJob(ref)).state in states)

    def until(self, ref: StageRef) -> int:
        """Returns the epochs of the next rung of a stage; 0 if there is none, and it trains to its end."""
        rungs = self._plan.rungs[len(self._ledger.entry(TrainJob(ref)).rungs) :] if ref in self._points else ()
        return rungs[0].epochs(self._plan.stage(ref)) if rungs else 0

    def decide(self) -> frozenset[StageRef]:
        """Decides on a rung that all its points have reached, unless they diverged; returns those that now end.

        Any other failure leaves the rung undecided: the next launch tries that point again.
        """
        paused, failed = self.points(State.paused), self.points(State.failed)
        diverged = {
            ref for ref in failed if self._ledger.entry(TrainJob(ref)).attempts[-1].outcome is AttemptEnd.diverged
        }
        if not paused or paused | diverged != self._points - self.points(State.ended):
            return frozenset()
        errors = {ref: self._ledger.entry(TrainJob(ref)).rungs for ref in paused}
        rung = self._plan.rungs[max(map(len, errors.values())) - 1]
        kept = choose_best(self._plan, rung, {ref: reached[-1] for ref, reached in errors.items()})
        ended = (paused | diverged).difference(kept)
        self._ledger.decide(kept, ended)
        return ended
