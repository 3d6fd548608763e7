"""Decides for the driver which stages start, how wide they are, and which running ones change their width."""

import logging
from collections.abc import Callable, Collection, Mapping

from orchestrator.execution.pace import Pace
from orchestrator.plan import (
    PATIENCE_S,
    Job,
    Plan,
    StageRef,
    TrainJob,
    Widths,
    candidates,
    choose,
)
from orchestrator.run import Ledger

# How often to look for changes while slots are idle or members wait.
_LOOK_EVERY_S = 5.0
_log = logging.getLogger(__name__)


class WidthChoice:
    """Chooses by the plan, the ledger and the time; `clock` returns Unix seconds."""

    def __init__(self, widths: Widths, ledger: Ledger, clock: Callable[[], float], pace: Pace) -> None:
        self._widths, self._ledger, self._clock, self._pace = widths, ledger, clock, pace
        self._idle_since: float | None = None
        self._looked = -_LOOK_EVERY_S

    def starts(
        self,
        plan: Plan,
        done: Collection[StageRef],
        running: Mapping[Job, int],
        num_slots: int,
        predicted: Collection[StageRef],
        moving: Collection[str] = (),
        kept_out: int = 0,
    ) -> tuple[Mapping[StageRef, int], Collection[str]]:
        """Returns the widths of stages to start now, and the members to stop, which start again at another width.

        Args:
            plan: the stages that may run.
            done: stages whose results are committed.
            running: the widths of running jobs.
            num_slots: workers that fit at once.
            predicted: last stages whose members have predicted.
            moving: members that are already stopping.
            kept_out: predictions that found no slot.
        """
        beside = [job.ref for job in running if not isinstance(job, TrainJob)]
        trained = {job.ref: width for job, width in running.items() if isinstance(job, TrainJob)}
        slots = num_slots - len(beside) - kept_out
        waiting = candidates(plan, done, trained, slots, self._widths, self._pace.costs, beside, predicted)
        if self._widths.most == 1:
            return {stage.ref: 1 for stage in waiting}, ()
        now, busy = self._clock(), sum(trained.values())
        if busy >= slots:
            self._idle_since = None
        is_due = now - self._looked >= _LOOK_EVERY_S and (waiting or busy != slots)
        if not is_due and not (waiting and busy < slots):
            return {}, ()
        self._looked = now
        known = [stage for stage in plan.stages if stage.ref not in done]
        found, is_known = self._pace.left(known)
        left = {ref: found[ref].rest_s if ref in found else 0.0 for ref in plan.by_ref}
        # Stages that ended meanwhile, or may run no more, are not in the plan.
        in_plan = {ref: width for ref, width in trained.items() if ref in plan.by_ref}
        chosen = choose(plan, left, in_plan, waiting, slots - (busy - sum(in_plan.values())), self._widths)
        since = now if self._idle_since is None else self._idle_since
        self._idle_since = since if chosen.wider else None
        changes = chosen.narrower or (chosen.wider if now - since >= PATIENCE_S else {})
        return chosen.starts, [
            self._told(ref, trained[ref], width)
            for ref, width in changes.items()
            if is_known and ref.member not in moving and self._age(ref) >= PATIENCE_S
        ]

    def _told(self, ref: StageRef, before: int, width: int) -> str:
        why = "slots are idle" if width > before else "others need slots"
        _log.warning(
            "%s: %d workers in place of %d, since %s; it saves a checkpoint and resumes", ref, width, before, why
        )
        return ref.member

    def _age(self, ref: StageRef) -> float:
        """Returns the seconds since the stage's width last changed, at the least."""
        return self._clock() - self._ledger.last(TrainJob(ref)).started
