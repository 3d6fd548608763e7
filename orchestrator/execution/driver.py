"""Starts jobs on actors as they become ready, retries them within budgets, and commits their results.

Only the driver writes DONE.json and the ledger. It can read its whole state from disk, so the next launch resumes after
any crash: a stage with a DONE.json is done, and any other resumes from its newest checkpoint.
"""

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace

from orchestrator.cluster import Completed, Failure, Halted, Lost, Predicted, RayCluster, Trained, Unfit
from orchestrator.execution.admission import Admission
from orchestrator.execution.following import AT_CHANCE_TAG, Following
from orchestrator.execution.halving import Halving
from orchestrator.execution.jobs import Work, has_predicted, results_of
from orchestrator.execution.nodes import NodeWatch
from orchestrator.execution.recovery import check_finished
from orchestrator.execution.starting import Starting
from orchestrator.execution.waiting import MachineWait
from orchestrator.execution.watchdog import Deadlines, mark_of
from orchestrator.plan import Job, Plan, PredictJob, StageRef, TrainJob
from orchestrator.run import AttemptEnd, Book, Ledger, State, find_finished
from orchestrator.tracking import Ending, Tracker
from workers.errors import CheckFailed, ConfigError, DataError, MemberFailed, SeptetError, StorageError
from workers.protocol import StageResult
from workers.storage import newest_step, raise_fence, require_held, write_finished, write_text
from workers.training import read_step

_POLL_S = 0.5
# These errors of an actor keep their exit code; any other becomes MemberFailed.
_KEPT_KINDS: dict[str, type[SeptetError]] = {kind.__name__: kind for kind in (CheckFailed, DataError, StorageError)}
_ENDED_TAG = "septet.ended"
_YIELDS = "others can still end within budget.hours; it resumes once a slot is free"
_LEAVES = "its node is leaving or left out; it saves a checkpoint and resumes elsewhere"
_log = logging.getLogger(__name__)


class Driver:
    """Runs one plan to its end: call `take_stock`, then `run`.

    `clock` returns Unix seconds for the ledger, `monotonic` the seconds for finding members that hang. `book` records
    the digests of everything that is committed.
    """

    def __init__(
        self,
        work: Work,
        ledger: Ledger,
        tracker: Tracker,
        book: Book,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work, self._ledger, self._tracker, self._book, self._clock = work, ledger, tracker, book, clock
        self._done: set[StageRef] = set()
        self._predicted: set[str] = set()
        self._busy: dict[str, Job] = {}
        # The workers of each member that has any, and the user's code that they import.
        self._actors: dict[str, tuple[int, str]] = {}
        self._failed: dict[Job, Failure] = {}
        self._following = Following(work.paths, ledger, tracker)
        self._halving = Halving(work.plan, ledger)
        self._admission = Admission(work, ledger, book)
        self._unsound: CheckFailed | None = None
        self._stopping = False
        self._deadlines = Deadlines(work.progress_timeout_s, monotonic)
        self._wait = MachineWait(work.wait_s, monotonic)
        self._moving: set[str] = set()
        self._nodes = NodeWatch(ledger, tracker)
        self._starting = Starting(work, ledger, clock)
        self._cluster: RayCluster

    def take_stock(self) -> bool:
        """Reads from disk which jobs are done, sends missing metrics to the tracker, and returns whether all are done.

        Raises:
            CheckFailed: a finished stage differs from the committed one; or its checkpoint does, and all jobs are done;
                or the ledger of a halved sweep was lost.
        """
        self._halving.require_ledger(self._work.paths)
        self._ledger.set_state(State.running)
        self._following.read(stage.ref for stage in self._work.plan.stages)
        self._unsound = check_finished(self._work.paths, self._work.plan, self._book.committed)
        for ref in self._admission.review():
            self._tracker.tag(ref, _ENDED_TAG, "no longer")
        ended, held = self._ended, self._ended | self._halving.points(State.paused)
        found: dict[Job, State] = {}
        for stage in self._work.plan.stages:
            train = TrainJob(stage.ref)
            finished = find_finished(self._work.paths, stage)
            if stage.ref in ended:
                self._end(stage.ref)
            elif finished is not None:
                self._done.add(stage.ref)
                found[train] = State.done
                self._following.end(stage.ref)
                at_chance = finished.at_chance
                self._tracker.stage_finished(stage.ref, Ending.FINISHED, {AT_CHANCE_TAG: str(at_chance).lower()})
            elif stage.ref not in held:
                found[train] = State.waiting
        for member in self._work.plan.trained:
            if has_predicted(self._work, self._book.committed, member):
                self._predicted.add(member)
            if (job := self._work.plan.predict_job(member)).ref not in ended:
                found[job] = State.done if member in self._predicted else State.waiting
        self._ledger.declare(found)
        self._decide()
        if self._complete and self._unsound:
            raise self._unsound
        return self._complete

    @property
    def _ended(self) -> frozenset[StageRef]:
        return self._halving.points(State.ended) | self._admission.ended

    @property
    def _complete(self) -> bool:
        last = self._work.plan.last_stages
        return {last[member] for member in last.keys() - self._predicted} <= self._ended

    def run(self, cluster: RayCluster, stop_requested: Callable[[], bool], show: Callable[[], None]) -> bool:
        """Trains and predicts until all jobs are done, the rest cannot run, or a stop is requested or in the budget.

        Args:
            cluster: runs the members; all its actors are ended at the end.
            stop_requested: called twice a second; true makes every actor checkpoint and stop.
            show: called twice a second, after the files on disk have changed.

        Returns:
            True if all members are complete, False after a stop.

        Raises:
            MemberFailed: a stage has used up its budget; all jobs that do not depend on it are done.
            StorageError, DataError, CheckFailed: as MemberFailed, because of storage, data or a check.
            ConfigError: no node is left that members can start on, or none came in time; those that ran have saved a
                checkpoint.
            ClusterLost: the cluster is gone.
        """
        self._cluster, no_node = cluster, None
        while True:
            if stop_requested() or self._starting.budget.is_spent:
                self._stop()
            if not self._stopping:
                try:
                    self._wait.look(waits=bool(self._busy) and all(map(self._waits, self._busy.values())))
                    self._start_what_fits()
                except ConfigError as error:
                    # There is no node to start on. Members that run can still save what they have.
                    no_node = error
                    self._stop()
            show()
            if not self._busy:
                break
            self._move_off_leaving_machines()
            completed = self._cluster.poll(_POLL_S)
            require_held(self._work.paths.root)
            self._book.results(*results_of(completed, self._busy, self._halving.until))
            with self._ledger.together():
                self._following.read([job.ref for job in self._busy.values() if isinstance(job, TrainJob)])
                self._nodes.note(self._cluster, self._busy.values())
                for one in completed:
                    self._settle(one)
                self._end_hung()
        for member in sorted(self._actors):
            self._discard(member)
        if no_node:
            raise no_node
        if self._failed:
            self._ledger.set_state(State.failed)
            (job, failure), *others = self._failed.items()
            more = f" ({len(others)} more failed: {', '.join(str(other) for other, _ in others)})" if others else ""
            message = f"{job}: {failure.message}{more}; see {self._work.paths.log(job.ref)}"
            raise _KEPT_KINDS.get(failure.kind, MemberFailed)(message)
        if self._complete and self._unsound:
            raise self._unsound
        if not self._complete:
            self._ledger.set_state(State.stopped)
        show()
        return self._complete

    def _waits(self, job: Job) -> bool:
        """Returns whether a begun job has no machine yet."""
        return not self._cluster.is_local and self._ledger.last(job).where is None

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            for job in list(self._busy.values()):
                self._halt(job)

    def _halt(self, job: Job) -> None:
        step, saved = self._work.paths.step(job.ref), self._work.paths.checkpoints(job.ref)
        # Another node's files may be seen late.
        if self._cluster.is_local and (isinstance(job, PredictJob) or read_step(step) <= newest_step(saved)):
            # Not waited for: it may take long to start.
            self._discard(job.member)
            self._settle(Completed(job.member, Halted("before it had anything to save")))
        else:
            self._cluster.stop(job.member)

    def _move_off_leaving_machines(self) -> None:
        """Makes members on draining nodes, and those that others go before, checkpoint and stop; they resume later."""
        leaving = dict.fromkeys(self._starting.budget.yielding, _YIELDS)
        leaving |= dict.fromkeys(self._cluster.leaving(), _LEAVES)
        for member in leaving.keys() & self._busy.keys() - self._moving:
            _log.warning("%s: %s", member, leaving[member])
            self._moving.add(member)
            self._cluster.stop(member)

    def _start_what_fits(self) -> None:
        """Starts the jobs that are chosen for the free slots."""
        self._decide()
        plan, unready = self._work.plan, self._predicted | self._busy.keys()
        predicting = [plan.predict_job(member) for member in plan.trained if member not in unready]
        able = [job for job in predicting if job.ref in self._done - self._ended and job not in self._failed]
        running = {job: self._actors[job.member][0] for job in self._busy.values()}
        given = self._done, able, self._predicted, running, self._moving, self._cluster
        chosen = self._starting.choose(self._trainable(), *given)
        for member in chosen.changes:
            self._moving.add(member)
            self._cluster.stop(member)
        asked = {job: (width, plan.stage(job.ref).recipe.model.code) for job, width in chosen.jobs.items()}
        kept = {job.member for job, asks in asked.items() if self._actors.get(job.member) == asks}
        for member in sorted(self._actors.keys() - self._busy.keys() - kept):
            del self._actors[member]
            self._cluster.release(member)
        no_node: ConfigError | None = None
        with self._ledger.together():
            try:
                for job, asks in asked.items():
                    self._begin(job, *asks)
            except ConfigError as error:
                # Those before it start all the same.
                no_node = error
        for job in (job for job in asked if job in self._busy.values()):
            self._start(job)
        if no_node:
            raise no_node
        # An autoscaler is asked for machines for all that could start.
        self._cluster.end_idle(chosen.num_waiting)

    def _decide(self) -> None:
        for ref in (*self._halving.decide(), *self._admission.decide(self._predicted)):
            self._end(ref)

    def _end(self, ref: StageRef) -> None:
        """Acts on a decision that is in the ledger."""
        train = TrainJob(ref)
        for job in (train, PredictJob(ref)):
            self._failed.pop(job, None)
        why = "admission" if ref in self._admission.ended else "halving"
        self._tracker.stage_finished(ref, Ending.FINISHED, {_ENDED_TAG: why})
        if self._busy.get(ref.member) == train:
            self._halt(train)

    def _trainable(self) -> Plan:
        """Returns the plan without stages that failed for good, those that need them, and those that wait."""
        plan, failed = self._work.plan, self._failed.keys()
        lost = {one.ref for one in plan.stages if failed & plan.requires(one)} if failed else set[StageRef]()
        over = {name for name, ref in plan.last_stages.items() if ref in lost or PredictJob(ref) in failed}
        later = self._admission.later(over | self._predicted, self._cluster.num_slots)
        held = self._ended | self._halving.points(State.paused) | later | lost
        return replace(plan, stages=tuple(stage for stage in plan.stages if stage.ref not in held)) if held else plan

    def _begin(self, job: Job, width: int, code: str) -> None:
        if job.member not in self._actors:
            self._cluster.acquire(job.member, width, code)
            self._actors[job.member] = width, code
        resumed_from = newest_step(self._work.paths.checkpoints(job.ref)) if isinstance(job, TrainJob) else 0
        state = State.running if self._cluster.is_local else State.waiting
        self._ledger.begin(job, started=self._clock(), resumed_from=resumed_from, state=state, width=width)
        self._busy[job.member] = job

    def _start(self, job: Job) -> None:
        member, paths, begun = job.member, self._work.paths, self._ledger.last(job)
        # The random part is needed if the ledger was deleted: it counts from 0 again.
        fence = f"{job}, attempt {begun.attempt}, launch {begun.launch}, {secrets.token_hex(4)}"
        raise_fence(paths.member(member), fence)
        if isinstance(job, TrainJob):
            # After the fence: this replaces a file that a worker of an earlier attempt may have open.
            write_text(paths.step(job.ref), str(begun.resumed_from))
        self._deadlines.begin(member, mark_of(paths.step(job.ref)))
        match job:
            case TrainJob(ref):
                self._tracker.stage_started(ref)
                spec = self._work.stage_spec(self._work.plan.stage(ref), begun.attempt, fence)
                self._cluster.run_stage(replace(spec, until=self._halving.until(ref) or spec.until, width=begun.width))
            case PredictJob():
                self._cluster.predict(self._work.predict_spec(member, fence))

    def _settle(self, completed: Completed) -> None:
        """Commits the result of a call, or decides whether to try again."""
        job = self._busy.pop(completed.member)
        moving = completed.member in self._moving
        self._moving.discard(completed.member)
        match completed.outcome:
            case Trained(result) if self._halving.until(job.ref):
                self._following.note_passed(job.ref, result.num_updates + 1)
                reached, resumed_from = result.dev_error, result.resumed_from
                self._ledger.end(job, AttemptEnd.paused, State.paused, resumed_from=resumed_from, rung=reached)
            case Trained(result):
                self._commit(job.ref, result)
            case Predicted():
                self._predicted.add(job.member)
                self._ledger.end(job, AttemptEnd.done, State.done)
            case Halted() if job.ref in self._ended:
                self._ledger.end(job, AttemptEnd.stopped, State.ended)
            case Halted() if moving and not self._stopping:
                self._ledger.end(job, AttemptEnd.preempted, State.waiting)
            case Halted():
                self._ledger.end(job, AttemptEnd.stopped, State.stopped)
                self._track_end(job, Ending.KILLED)
            case Unfit(reason):
                _log.warning("%s: its node cannot run it: %s", job, reason)
                state = State.stopped if self._stopping else State.waiting
                state = State.ended if job.ref in self._ended else state
                self._ledger.end(job, AttemptEnd.refused, state, error=f"Unfit: {reason}")
                self._discard(job.member)
            case Lost(reason, announced):
                end = AttemptEnd.preempted if moving or announced else AttemptEnd.lost
                self._retry(job, end, Failure("Lost", f"its actor died: {reason}", "", retryable=True))
            case Failure() as failure:
                self._retry(job, AttemptEnd.failed, failure)
        if moving or job.ref in self._ended:
            # Whatever its result: it was told to stop, and would stop at the first step of any later stage.
            self._discard(job.member)

    def _end_hung(self) -> None:
        """Ends members that are alive but make no progress; they are retried as if their process were lost."""
        for member, job in list(self._busy.items()):
            mark = mark_of(self._work.paths.step(job.ref))
            if self._waits(job):
                self._deadlines.begin(member, mark)
            elif reason := self._deadlines.look(member, mark):
                del self._busy[member]
                self._moving.discard(member)
                self._retry(job, AttemptEnd.lost, Failure("Hung", reason, "", retryable=True))

    def _commit(self, ref: StageRef, result: StageResult) -> None:
        job = TrainJob(ref)
        write_finished(self._work.paths.stage(ref), self._work.plan.stage(ref).hash, result)
        self._done.add(ref)
        self._following.note_passed(ref, result.num_updates + 1)
        self._following.end(ref)
        self._ledger.flag_at_chance(job, result.at_chance)
        state = State.ended if ref in self._ended else State.done
        self._ledger.end(job, AttemptEnd.done, state, resumed_from=result.resumed_from)
        self._tracker.stage_finished(ref, Ending.FINISHED, {AT_CHANCE_TAG: str(result.at_chance).lower()})

    def _retry(self, job: Job, end: AttemptEnd, failure: Failure) -> None:
        """Retries a job or gives it up. Its actor is not used again, since the state of its process is unknown."""
        _log.warning("%s: %s: %s", job, failure.kind, failure.message)
        _log.debug("%s", failure.traceback)
        if where := self._cluster.where(job.member):
            # Of a gang's worker that failed.
            self._ledger.place(job, where)
        self._discard(job.member)
        message = f"{failure.kind}: {failure.message}"
        if failure.diverged_at is not None:
            end = AttemptEnd.diverged
        if job.ref in self._ended:
            self._ledger.end(job, end, State.ended, error=message, diverged_at=failure.diverged_at)
            return
        if self._stopping:
            self._ledger.end(job, end, State.stopped, error=message, diverged_at=failure.diverged_at)
            self._track_end(job, Ending.KILLED)
            return
        self._ledger.end(job, end, State.waiting, error=message, diverged_at=failure.diverged_at)
        if self._is_spared(job):
            _log.warning("%s: it is tried on another node, and its budget stays as it was", job)
            return
        if end is AttemptEnd.diverged:
            if self._ledger.may_replay(job):
                _log.warning("%s: replaying from its newest checkpoint, in case the fault is transient", job)
                return
            failure = replace(failure, message=f"{failure.message} (again after a replay, so it is no transient fault)")
        elif failure.retryable and self._ledger.may_retry(job, end, self._work.budgets):
            return
        self._ledger.declare({job: State.failed})
        self._failed[job] = failure
        self._track_end(job, Ending.FAILED)

    def _is_spared(self, job: Job) -> bool:
        """Judges the nodes; returns whether the job's is left out. Others that failed for good there wait again."""
        self._nodes.judge(self._cluster)
        spared = [other for other in self._failed if self._ledger.is_left_out(self._ledger.last(other))]
        for other in spared:
            del self._failed[other]
        self._ledger.declare(dict.fromkeys(spared, State.waiting))
        return self._ledger.is_left_out(self._ledger.last(job))

    def _track_end(self, job: Job, ending: Ending) -> None:
        if isinstance(job, TrainJob):
            self._tracker.stage_finished(job.ref, ending)

    def _discard(self, member: str) -> None:
        self._actors.pop(member, None)
        self._cluster.discard(member)
