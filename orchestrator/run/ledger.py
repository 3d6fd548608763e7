"""Keeps ledger.json: every attempt at every job, and the budgets that bound them. Only the driver writes it.

A job has two budgets: `lost` counts actors that died or hung under it, `failed` its own errors. Both start again with
each launch, since a person has looked at the run in between. Neither counts an attempt whose driver died, whose machine
was taken away after notice, or that met a NaN, which is replayed to tell a passing fault from divergence.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from orchestrator.plan import Job, PredictJob
from workers.errors import Stopped, StorageError
from workers.storage import parse_json, storage_errors, write_json


class StageState(StrEnum):
    """The state of a job, or of the whole run."""

    waiting = "waiting"
    running = "running"
    done = "done"
    failed = "failed"
    stopped = "stopped"


class AttemptEnd(StrEnum):
    """How an attempt ended; `interrupted`: its driver died, `preempted`: its machine was to be taken away."""

    done = "done"
    lost = "lost"
    failed = "failed"
    stopped = "stopped"
    interrupted = "interrupted"
    diverged = "diverged"
    preempted = "preempted"


# A NaN at ever later updates is no single passing fault: after so many replays within a launch it counts as divergence.
_MAX_REPLAYS = 3


@dataclass(frozen=True)
class Attempt:
    """One attempt. `started` is in unix seconds.

    `resumed_from` is the update whose checkpoint it went on from, `last_step` the last update it made, by its
    step.txt: what the next attempt redoes is this `last_step` less the next `resumed_from`. `outcome` is None while it
    runs. `diverged_at`: how many updates were made when something was not finite.
    """

    attempt: int
    launch: int
    started: float
    resumed_from: int
    last_step: int
    outcome: AttemptEnd | None = None
    error: str = ""
    diverged_at: int | None = None


@dataclass(frozen=True)
class Entry:
    """One job's history. `passed_nans`: updates at which a NaN was met that did not come again."""

    state: StageState = StageState.waiting
    attempts: tuple[Attempt, ...] = ()
    at_chance: bool = False
    passed_nans: tuple[int, ...] = ()

    @property
    def open_nans(self) -> tuple[int, ...]:
        """The updates at which a NaN was met of which it is not known yet whether it comes again."""
        met = {attempt.diverged_at for attempt in self.attempts if attempt.diverged_at is not None}
        return tuple(sorted(met.difference(self.passed_nans)))

    @property
    def running(self) -> bool:
        return bool(self.attempts) and self.attempts[-1].outcome is None


@dataclass(frozen=True)
class Budgets:
    """How often a stage may be lost, and how often it may fail, within one launch before it is given up."""

    max_losses: int
    max_failures: int


@dataclass(frozen=True)
class Contents:
    """The whole file: training by `member/stage`, predictions by member."""

    state: StageState = StageState.waiting
    launch: int = 0
    stages: Mapping[str, Entry] = field(default_factory=dict)
    predictions: Mapping[str, Entry] = field(default_factory=dict)

    def entry(self, job: Job) -> Entry:
        """The job's history, an empty one where it has none."""
        entries = self.predictions if isinstance(job, PredictJob) else self.stages
        return entries.get(_key(job), Entry())

    def with_entry(self, job: Job, entry: Entry) -> "Contents":
        """The same contents with another history of `job`."""
        if isinstance(job, PredictJob):
            return replace(self, predictions={**self.predictions, _key(job): entry})
        return replace(self, stages={**self.stages, _key(job): entry})


class Ledger:
    """Keeps ledger.json as the driver goes along; each change but `reach` is on disk before the method returns."""

    def __init__(self, path: Path) -> None:
        """Reads what earlier launches left and opens a new launch in it, nothing written yet."""
        self._path = path
        before = read_ledger(path)
        self._contents = replace(
            before,
            launch=before.launch + 1,
            stages=_close_interrupted(before.stages),
            predictions=_close_interrupted(before.predictions),
        )

    @property
    def contents(self) -> Contents:
        return self._contents

    def entry(self, job: Job) -> Entry:
        return self._contents.entry(job)

    def set_state(self, state: StageState) -> None:
        """The whole run's."""
        self._contents = replace(self._contents, state=state)
        self._save()

    def declare(self, job: Job, state: StageState) -> None:
        """Sets the state of a job that waits, failed for good, or is done since an earlier launch."""
        if self.entry(job).state is not state:
            self._put(job, replace(self.entry(job), state=state))

    def begin(self, job: Job, *, started: float, resumed_from: int) -> int:
        """Opens the next attempt and gives its number."""
        entry = self.entry(job)
        attempt = Attempt(
            attempt=len(entry.attempts),
            launch=self._contents.launch,
            started=started,
            resumed_from=resumed_from,
            last_step=resumed_from,
        )
        self._put(job, replace(entry, state=StageState.running, attempts=(*entry.attempts, attempt)))
        return attempt.attempt

    def reach(self, job: Job, last_step: int) -> None:
        """Notes the last update an attempt was seen at, the one that runs or one of a driver that died.

        It reaches the disk with the next change: step.txt has it all the while.
        """
        entry = self.entry(job)
        if entry.attempts and last_step > entry.attempts[-1].last_step:
            attempt = replace(entry.attempts[-1], last_step=last_step)
            self._hold(job, replace(entry, attempts=(*entry.attempts[:-1], attempt)))

    def end(
        self,
        job: Job,
        outcome: AttemptEnd,
        state: StageState,
        *,
        error: str = "",
        resumed_from: int | None = None,
        diverged_at: int | None = None,
    ) -> None:
        """Closes the running attempt. `resumed_from` corrects what was expected at its beginning."""
        last = self.entry(job).attempts[-1]
        corrected = last.resumed_from if resumed_from is None else resumed_from
        ended = replace(last, outcome=outcome, error=error, resumed_from=corrected, diverged_at=diverged_at)
        self._put_last(job, ended, state)

    def flag_at_chance(self, job: Job, at_chance: bool) -> None:
        """Notes whether the stage's validation error is still that of guessing."""
        entry = self.entry(job)
        if entry.at_chance != at_chance:
            self._put(job, replace(entry, at_chance=at_chance))

    def may_retry(self, job: Job, outcome: AttemptEnd, budgets: Budgets) -> bool:
        """Whether the budget of `outcome` lets the stage be tried again in this launch."""
        if outcome is AttemptEnd.preempted:
            return True
        limit = {AttemptEnd.lost: budgets.max_losses, AttemptEnd.failed: budgets.max_failures}[outcome]
        attempts = self.entry(job).attempts
        spent = sum(a.launch == self._contents.launch and a.outcome is outcome for a in attempts)
        return spent <= limit

    def may_replay(self, job: Job) -> bool:
        """Whether the NaN that the last attempt met may be a passing fault.

        It is none where an attempt of this launch has met one at the same update or a later one before.
        """
        attempts = [attempt for attempt in self.entry(job).attempts if attempt.launch == self._contents.launch]
        *before, last = [attempt.diverged_at for attempt in attempts if attempt.diverged_at is not None]
        return len(before) < _MAX_REPLAYS and all(last > earlier for earlier in before)

    def pass_nans(self, job: Job, beyond: int) -> tuple[int, ...]:
        """Notes and gives those of the entry's open NaNs that lie before update `beyond`, which is vouched for."""
        entry = self.entry(job)
        passed = tuple(step for step in entry.open_nans if step < beyond)
        if passed:
            self._put(job, replace(entry, passed_nans=tuple(sorted({*entry.passed_nans, *passed}))))
        return passed

    def _put_last(self, job: Job, attempt: Attempt, state: StageState) -> None:
        entry = self.entry(job)
        self._put(job, replace(entry, state=state, attempts=(*entry.attempts[:-1], attempt)))

    def _put(self, job: Job, entry: Entry) -> None:
        self._hold(job, entry)
        self._save()

    def _hold(self, job: Job, entry: Entry) -> None:
        self._contents = self._contents.with_entry(job, entry)

    def _save(self) -> None:
        write_json(self._path, asdict(self._contents))


@contextmanager
def end_noted(ledger: Ledger) -> Iterator[None]:
    """However the block ends, in which a launch works, the ledger says so: else status would take it for killed."""
    try:
        yield
    except (Stopped, KeyboardInterrupt):
        _note_end(ledger, StageState.stopped)
        raise
    except BaseException:
        _note_end(ledger, StageState.failed)
        raise
    ledger.set_state(StageState.done)


def _note_end(ledger: Ledger, state: StageState) -> None:
    # The error on its way is the one to tell; storage that failed it may fail this as well.
    with suppress(OSError, StorageError):
        ledger.set_state(state)


def read_ledger(path: Path) -> Contents:
    """Reads ledger.json; empty contents where there is none yet. Raises StorageError where it is damaged."""
    try:
        with storage_errors(path):
            value = parse_json(path.read_bytes())
        entries = ({key: _entry(entry) for key, entry in value[kind].items()} for kind in ("stages", "predictions"))
        return Contents(StageState(value["state"]), value["launch"], *entries)
    except FileNotFoundError:
        return Contents()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{path}: damaged ({error}); remove it: only the count of attempts is lost") from error


def _entry(value: Mapping[str, Any]) -> Entry:
    attempts = tuple(
        Attempt(**{**attempt, "outcome": attempt["outcome"] and AttemptEnd(attempt["outcome"])})
        for attempt in value["attempts"]
    )
    return Entry(StageState(value["state"]), attempts, value["at_chance"], tuple(value["passed_nans"]))


def _close_interrupted(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Ends attempts whose driver died, so that their jobs wait again."""
    return {key: _interrupted(entry) if entry.running else entry for key, entry in entries.items()}


def _interrupted(entry: Entry) -> Entry:
    last = replace(entry.attempts[-1], outcome=AttemptEnd.interrupted)
    return replace(entry, state=StageState.waiting, attempts=(*entry.attempts[:-1], last))


def _key(job: Job) -> str:
    return job.member if isinstance(job, PredictJob) else str(job)
