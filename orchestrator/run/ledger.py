"""Keeps ledger.json: every attempt at every job, and the budgets that limit them. Only the driver writes it.

A job has two budgets: `lost` counts actors that died or hung while running it, `failed` counts its own errors. Each
launch starts with full budgets, since a person has looked at the run in between. Neither budget counts an attempt whose
driver died, whose node was draining or is left out, or that met a NaN: a NaN is replayed to tell a passing fault from
divergence.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from orchestrator.cluster import Where
from orchestrator.plan import Job, PredictJob, StageRef, TrainJob
from workers.errors import Stopped, StorageError
from workers.storage import parse_json, storage_errors, write_json_lines

# The state of a job, or of the whole run. At a rung of a halved sweep a point is `paused`, until it continues or is
# `ended`. `interrupted` is never written: the ledger says running, but no process holds the run.
State = StrEnum("State", "waiting running done failed stopped interrupted paused ended")
# The end of an attempt; `interrupted`: its driver died, `preempted`: its node was draining, its width was changed, or
# its slot went to a member that can still end within the budget, `paused`: at a rung, `refused`: its node is unfit.
AttemptEnd = StrEnum("AttemptEnd", "done lost failed stopped interrupted diverged preempted paused refused")
# A single fault does not return at later updates: after this many replays in a launch, NaNs count as divergence.
_MAX_REPLAYS = 3


@dataclass(frozen=True)
class Attempt:
    """One attempt at a job. `started` and `ended` are in Unix seconds; `ended` is None if its driver died.

    `resumed_from` is the update of the checkpoint that it resumed from. `last_step` is its last update, read from
    step.txt: the next attempt repeats this `last_step` minus the next `resumed_from` updates. `outcome` is None while
    it runs. `diverged_at` is the number of updates made when a value was not finite. `where` is None until it is known.
    `width` counts its workers.
    """

    attempt: int
    launch: int
    started: float
    resumed_from: int
    last_step: int
    outcome: AttemptEnd | None = None
    error: str = ""
    diverged_at: int | None = None
    ended: float | None = None
    where: Where | None = None
    width: int = 1

    @property
    def kind(self) -> str:
        """Returns the kind of error that it ended with, "" without one."""
        return self.error.partition(":")[0]


@dataclass(frozen=True)
class Entry:
    """The history of one job.

    `passed_nans` are updates at which a replay did not meet the NaN again; `rungs` are dev errors at rungs.
    """

    state: State = State.waiting
    attempts: tuple[Attempt, ...] = ()
    at_chance: bool = False
    passed_nans: tuple[int, ...] = ()
    rungs: tuple[float, ...] = ()

    @property
    def machines(self) -> tuple[str, ...]:
        """Returns the machines that made its updates, as far as they are known, in order."""
        made = (one for one in self.attempts if one.outcome is AttemptEnd.done or one.last_step > one.resumed_from)
        return tuple(dict.fromkeys(one.where.machine for one in made if one.where))

    @property
    def open_nans(self) -> tuple[int, ...]:
        """Returns the updates at which a NaN was met and no replay has passed yet."""
        met = {attempt.diverged_at for attempt in self.attempts if attempt.diverged_at is not None}
        return tuple(sorted(met.difference(self.passed_nans)))


@dataclass(frozen=True)
class Budgets:
    """The numbers of losses and of failures that a job may have in one launch before it is given up."""

    max_losses: int
    max_failures: int


@dataclass(frozen=True)
class Decision:
    """Says whether one more member is worth its training, by a recipe's first ones; losses are of `metric` on dev.

    `members` are these, with the sha256 of their predictions. `gain` of one more is (estimate, low, high) with
    `confidence`, None where the metric is not defined. `ended` are all later members of the recipe, or none.
    """

    members: Mapping[str, str]
    metric: str
    worth: float
    confidence: float
    gain: tuple[float, ...] | None = None
    ended: tuple[str, ...] = ()

    def __str__(self) -> str:
        estimate, low, high = self.gain or ()
        gain = (
            f"one more than {', '.join(self.members)} gains {estimate:.4f} ({low:.4f} to {high:.4f}) of {self.metric}"
        )
        return f"ended by ensemble.admit: {gain}, worth {self.worth:g}"


@dataclass(frozen=True)
class Contents:
    """The content of ledger.json: training by `member/stage`, predictions by member, decisions of `ensemble.admit`.

    `left_out` has a line for each node that the newest launch does not use, by Ray's id of the node. `budget_ends` is
    when the newest launch's `budget.hours` are over, in Unix seconds.
    """

    state: State = State.waiting
    launch: int = 0
    stages: Mapping[str, Entry] = field(default_factory=dict)
    predictions: Mapping[str, Entry] = field(default_factory=dict)
    admission: tuple[Decision, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    budget_ends: float | None = None

    @property
    def attempts(self) -> tuple[tuple[str, Attempt], ...]:
        """The attempts of the newest launch, each with its member."""
        jobs = ((job.partition("/")[0], entry) for job, entry in (*self.stages.items(), *self.predictions.items()))
        return tuple((member, one) for member, entry in jobs for one in entry.attempts if one.launch == self.launch)

    @property
    def not_admitted(self) -> dict[str, Decision]:
        """The members that `ensemble.admit` ended, each with the decision."""
        return {member: decision for decision in self.admission for member in decision.ended}

    def entry(self, job: Job) -> Entry:
        """Returns the job's history, an empty one if it has none."""
        entries = self.predictions if isinstance(job, PredictJob) else self.stages
        return entries.get(_key(job), Entry())

    def with_entries(self, entries: Mapping[Job, Entry]) -> "Contents":
        """Returns these contents with other histories of some jobs."""
        predictions = {_key(job): entry for job, entry in entries.items() if isinstance(job, PredictJob)}
        stages = {_key(job): entry for job, entry in entries.items() if not isinstance(job, PredictJob)}
        return replace(self, stages={**self.stages, **stages}, predictions={**self.predictions, **predictions})

    def with_states(self, states: Mapping[Job, State]) -> "Contents":
        """Returns these contents with other states of some jobs."""
        return self.with_entries({job: replace(self.entry(job), state=state) for job, state in states.items()})


class Ledger:
    """Keeps ledger.json while the driver runs. Changes but `reach` are on disk when their method or `together` ends."""

    # Whether changes wait for the end of `together`; None outside it.
    _unsaved: bool | None = None

    def __init__(self, path: Path, clock: Callable[[], float] = time.time, budget_ends: float | None = None) -> None:
        """Reads the attempts of earlier launches and begins a new launch; writes nothing yet."""
        self._path, self._clock = path, clock
        before = read_ledger(path)
        self.contents = replace(
            before,
            launch=before.launch + 1,
            stages=_close_interrupted(before.stages),
            predictions=_close_interrupted(before.predictions),
            left_out={},
            budget_ends=budget_ends,
        )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Makes one write of all changes in the block, at its end: each write is of all jobs of the plan."""
        self._unsaved = False
        try:
            yield
        finally:
            unsaved, self._unsaved = self._unsaved, None
            if unsaved:
                self._save()

    def entry(self, job: Job) -> Entry:
        return self.contents.entry(job)

    def last(self, job: Job) -> Attempt:
        """Returns the newest attempt at a job that has one."""
        return self.entry(job).attempts[-1]

    def set_state(self, state: State) -> None:
        """Sets the state of the whole run."""
        self.contents = replace(self.contents, state=state)
        self._save()

    def declare(self, states: Mapping[Job, State]) -> None:
        """Sets, in one write, the states of jobs that wait, have failed for good, or were done by an earlier launch."""
        changed = {job: state for job, state in states.items() if self.entry(job).state is not state}
        if changed:
            self.contents = self.contents.with_states(changed)
            self._save()

    def leave_out(self, nodes: Mapping[str, str]) -> None:
        """Records which nodes are not used. Attempts on them count for no budget."""
        if nodes != self.contents.left_out:
            self.contents = replace(self.contents, left_out=dict(nodes))
            self._save()

    def begin(
        self, job: Job, *, started: float, resumed_from: int, state: State = State.running, width: int = 1
    ) -> None:
        """Begins the next attempt; it is `waiting` if it has no machine yet."""
        entry = self.entry(job)
        counts = len(entry.attempts), self.contents.launch
        attempt = Attempt(*counts, started, resumed_from, last_step=resumed_from, width=width)
        self._put(job, replace(entry, state=state, attempts=(*entry.attempts, attempt)))

    def place(self, job: Job, where: Where) -> None:
        """Records where the last attempt runs; one that waited for a machine has started now."""
        entry = self.entry(job)
        last = replace(entry.attempts[-1], where=where, started=self._started(entry))
        self._put(job, replace(entry, state=State.running, attempts=(*entry.attempts[:-1], last)))

    def _started(self, entry: Entry) -> float:
        return round(self._clock(), 3) if entry.state is State.waiting else entry.attempts[-1].started

    def reach(self, job: Job, last_step: int) -> None:
        """Records the last update that the last attempt has reached.

        The next change writes it to disk; until then step.txt has it.
        """
        entry = self.entry(job)
        if entry.attempts and last_step > entry.attempts[-1].last_step:
            attempts = (*entry.attempts[:-1], replace(entry.attempts[-1], last_step=last_step))
            self.contents = self.contents.with_entries({job: replace(entry, attempts=attempts)})

    def end(
        self,
        job: Job,
        outcome: AttemptEnd,
        state: State,
        *,
        error: str = "",
        resumed_from: int | None = None,
        diverged_at: int | None = None,
        rung: float | None = None,
    ) -> None:
        """Ends the running attempt. `resumed_from` corrects the value given to `begin`; `rung` is a dev error."""
        entry = self.entry(job)
        last = entry.attempts[-1]
        corrected = last.resumed_from if resumed_from is None else resumed_from
        ended = replace(last, outcome=outcome, error=error, resumed_from=corrected, diverged_at=diverged_at)
        ended = replace(ended, started=self._started(entry), ended=round(self._clock(), 3))
        rungs = entry.rungs if rung is None else (*entry.rungs, rung)
        self._put(job, replace(entry, state=state, attempts=(*entry.attempts[:-1], ended), rungs=rungs))

    def decide(
        self, kept: Collection[StageRef], ended: Collection[StageRef], admission: tuple[Decision, ...] = ()
    ) -> None:
        """Records a rung's decision, or all of `admission`, in one write: stages to train wait, others have ended."""
        states = {**dict.fromkeys(ended, State.ended), **dict.fromkeys(kept, State.waiting)}
        jobs: dict[Job, State] = {
            job: state for ref, state in states.items() for job in (TrainJob(ref), PredictJob(ref))
        }
        self.contents = replace(self.contents.with_states(jobs), admission=admission)
        self._save()

    def flag_at_chance(self, job: Job, at_chance: bool) -> None:
        """Records whether the stage's validation error is still at chance."""
        entry = self.entry(job)
        if entry.at_chance != at_chance:
            self._put(job, replace(entry, at_chance=at_chance))

    def may_retry(self, job: Job, outcome: AttemptEnd, budgets: Budgets) -> bool:
        """Returns whether the budget of `outcome` allows another attempt in this launch."""
        if outcome is AttemptEnd.preempted:
            return True
        limit = {AttemptEnd.lost: budgets.max_losses, AttemptEnd.failed: budgets.max_failures}[outcome]
        return sum(attempt.outcome is outcome for attempt in self._counted(job)) <= limit

    def may_replay(self, job: Job) -> bool:
        """Returns whether the last attempt's NaN may be a passing fault.

        It cannot be one if an earlier attempt of this launch met a NaN at the same update or a later one.
        """
        *before, last = [one.diverged_at for one in self._counted(job) if one.diverged_at is not None]
        return len(before) < _MAX_REPLAYS and all(last > earlier for earlier in before)

    def is_left_out(self, attempt: Attempt) -> bool:
        """Returns whether the attempt was on a node that is not used any more."""
        return attempt.where is not None and attempt.where.node_id in self.contents.left_out

    def _counted(self, job: Job) -> list[Attempt]:
        """Returns the attempts of this launch that count for budgets."""
        attempts = self.entry(job).attempts
        return [one for one in attempts if one.launch == self.contents.launch and not self.is_left_out(one)]

    def pass_nans(self, job: Job, beyond: int) -> tuple[int, ...]:
        """Records and returns the entry's open NaNs before update `beyond`, which a replay has passed."""
        entry = self.entry(job)
        passed = tuple(step for step in entry.open_nans if step < beyond)
        if passed:
            self._put(job, replace(entry, passed_nans=tuple(sorted({*entry.passed_nans, *passed}))))
        return passed

    def _put(self, job: Job, entry: Entry) -> None:
        self.contents = self.contents.with_entries({job: entry})
        self._save()

    def _save(self) -> None:
        if self._unsaved is None:
            write_json_lines(self._path, self.contents)
        else:
            self._unsaved = True


@contextmanager
def end_noted(ledger: Ledger) -> Iterator[None]:
    """Records in the ledger how the block, a launch's work, ended; otherwise status would report a killed launch."""
    try:
        yield
    except BaseException as error:
        # The error matters more; the same storage fault may make this write fail too.
        with suppress(OSError, StorageError):
            ledger.set_state(State.stopped if isinstance(error, Stopped | KeyboardInterrupt) else State.failed)
        raise
    ledger.set_state(State.done)


def read_ledger(path: Path) -> Contents:
    """Reads ledger.json; returns empty contents if there is none. Raises StorageError if it is damaged."""
    try:
        with storage_errors(path):
            value = parse_json(path.read_bytes())
        kinds = ("stages", "predictions")
        stages, predictions = ({key: _entry(entry) for key, entry in value[kind].items()} for kind in kinds)
        # Ledgers of earlier releases have no decisions.
        decisions = tuple(map(_decision, value.get("admission", ())))
        left_out, ends = value.get("left_out", {}), value.get("budget_ends")
        return Contents(State(value["state"]), value["launch"], stages, predictions, decisions, left_out, ends)
    except FileNotFoundError:
        return Contents()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "delete it: only the count of attempts is lost; restore it if a sweep was halved"
        raise StorageError(f"{path}: damaged ({error}); {remedy}") from error


def _decision(value: Mapping[str, Any]) -> Decision:
    gain = value["gain"] and tuple(value["gain"])
    return Decision(**{**value, "gain": gain, "ended": tuple(value["ended"])})


def _entry(value: Mapping[str, Any]) -> Entry:
    attempts = tuple(
        Attempt(
            **{
                **attempt,
                "outcome": attempt["outcome"] and AttemptEnd(attempt["outcome"]),
                "where": Where(**attempt["where"]) if attempt.get("where") else None,
            }
        )
        for attempt in value["attempts"]
    )
    passed, rungs = tuple(value["passed_nans"]), tuple(value.get("rungs", ()))
    return Entry(State(value["state"]), attempts, value["at_chance"], passed, rungs)


def _close_interrupted(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Ends attempts whose driver died, so that their jobs wait again."""
    closed = dict(entries)
    for key, entry in entries.items():
        if entry.attempts and entry.attempts[-1].outcome is None:
            last = replace(entry.attempts[-1], outcome=AttemptEnd.interrupted)
            state = entry.state if entry.state is State.ended else State.waiting
            closed[key] = replace(entry, state=state, attempts=(*entry.attempts[:-1], last))
    return closed


def _key(job: Job) -> str:
    return job.member if isinstance(job, PredictJob) else str(job)
