"""Works on a tracking store in a background thread, in order, and keeps trying while the store is down.

Callers only append to a queue, so training never waits. Work that fails stays at the head of the queue and is tried
again with growing pauses. Work that the store refuses is dropped with one warning. Queued points are sent together.
"""

import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from orchestrator.text import redact
from orchestrator.tracking.mlflow_store import Point
from workers.errors import ConfigError

# Codes with which a store refuses a call: repeating the call changes nothing.
_LASTING_CODES = frozenset(
    {
        "FEATURE_DISABLED",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "MALFORMED_REQUEST",
        "NOT_IMPLEMENTED",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_DOES_NOT_EXIST",
    }
)
# Codes that MLflow's client also makes from a bare HTTP status. A proxy in front of a server that restarts answers 400,
# 401, 403 or 404 with its own page, so these codes count only in an answer by MLflow itself.
_LASTING_WORDS = frozenset(
    {"BAD_REQUEST", "CUSTOMER_UNAUTHORIZED", "ENDPOINT_NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED"}
)
_LASTING_TYPES = (ArithmeticError, AttributeError, ConfigError, FileNotFoundError, ImportError, LookupError, TypeError)
_MAX_SHOWN = 160


def is_lasting(error: Exception) -> bool:
    """Returns whether the same call would fail again although the store answers."""
    code, kind = getattr(error, "error_code", None), type(error).__name__
    if isinstance(code, str) and (code in _LASTING_CODES or (code in _LASTING_WORDS and kind == "RestException")):
        return True
    return kind == "InvalidUrlException" or isinstance(error, _LASTING_TYPES)


def explain(error: Exception) -> str:
    """Returns a store's error as one short line without secrets."""
    text = redact(" ".join(str(error).split()) or type(error).__name__)
    if "Connection refused" in text or "NewConnectionError" in text:
        return "the connection was refused"
    if "NameResolutionError" in text:
        return "the host is unknown"
    if "timed out" in text:
        return "it did not answer in time"
    if "Connection aborted" in text or "Max retries exceeded" in text or "Connection broken" in text:
        return "the connection was lost"
    if "database is locked" in text:
        return "another process holds the database"
    # MLflow's own lines end with what to do; a database's quote whole statements.
    whole = type(error).__module__.partition(".")[0] in ("mlflow", "workers")
    return text if whole or len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


_log = logging.getLogger(__name__)

REFUSED_S = 2.0  # how long errors may come at once: a server that is starting needs this
_POLL_S = 0.1
_MAX_BATCH = 500
_MAX_QUEUED = 200_000  # points; an outage of weeks must not fill memory (metrics.jsonl has them all)


@dataclass(frozen=True)
class Pace:
    """Holds times in seconds: how long points gather, pauses between attempts, how often the load is sampled."""

    linger_s: float = 0.4
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    sample_s: float = 10.0


@dataclass(frozen=True)
class Task:
    """Describes work on the store that may be repeated.

    `attempts` 0 means no limit. A `vital` task is never dropped, since later work needs it. A `quiet` task logs no
    outage: its caller waits for it and reports the problem.
    """

    work: Callable[[], None]
    what: str
    attempts: int = 0
    vital: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class _Queued:
    item: Task | Point
    due: float


class Sender:
    """Holds the queue and its thread; `deliver` sends points, `sample` is called every `pace.sample_s` seconds."""

    def __init__(
        self,
        deliver: Callable[[Sequence[Point]], None],
        where: str,
        sample: Callable[[], Point | None] = lambda: None,
        pace: Pace | None = None,
    ) -> None:
        self._deliver = deliver
        self._where = where
        self._sample = sample
        self._pace = pace or Pace()
        self._changed = threading.Condition()
        self._queue: deque[_Queued] = deque()
        self._hurry = False
        self._stopped = False
        self._error: Exception | None = None
        self._num_failed = 0
        self._failing_since = 0.0
        self._last_try = 0.0
        self._last_answer = time.monotonic()
        self._singly = 0  # points to send one by one, since one of them was refused
        self._told: set[str] = set()
        self._num_left_out = 0
        # A daemon: a store that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="septet-tracking", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Returns how many tasks and points are not done."""
        with self._changed:
            return len(self._queue)

    def is_progressing(self, within_s: float) -> bool:
        """Returns whether work is left and the store took some in the last `within_s`, or an upload is under way."""
        with self._changed:
            if not self._queue or self._error is not None:
                return False
            head = self._queue[0].item
            is_long = isinstance(head, Task) and head.attempts > 0
            return is_long or time.monotonic() - self._last_answer < within_s

    def submit(self, task: Task) -> None:
        """Appends a task; returns at once."""
        with self._changed:
            self._queue.append(_Queued(task, 0.0))
            self._changed.notify_all()

    def add(self, point: Point) -> None:
        """Appends a point; returns at once. If the queue is full, the point is only counted."""
        with self._changed:
            if len(self._queue) >= _MAX_QUEUED:
                self._num_left_out += len(point.metrics)
                return
            self._queue.append(_Queued(point, time.monotonic() + self._pace.linger_s))
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> int:
        """Waits until all is sent or the time is over; returns how many metric values the store lacks."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._queue or self._stopped, timeout_s)
            self._hurry = False
            waiting = (queued.item for queued in self._queue)
            return self._num_left_out + sum(len(item.metrics) for item in waiting if isinstance(item, Point))

    def wait_for(self, done: threading.Event, limit_s: float, refused_s: float) -> str:
        """Waits for a vital task's event; returns the problem in one line, or an empty text.

        Gives up after `limit_s`, at a lasting error, or after `refused_s` of other errors.
        """
        until = time.monotonic() + limit_s
        while not done.wait(_POLL_S):
            with self._changed:
                error, failing_s = self._error, time.monotonic() - self._failing_since
            if error is not None and (is_lasting(error) or failing_s >= refused_s):
                return explain(error)
            if time.monotonic() >= until:
                return explain(error) if error else f"no answer within {limit_s:.0f} s"
        return ""

    def stop(self) -> None:
        """Ends the thread after its current work; the queue is not sent."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _run(self) -> None:
        next_sample = time.monotonic() + self._pace.sample_s
        while True:
            with self._changed:
                while not self._stopped and (now := time.monotonic()) < min(self._due_at(), next_sample):
                    self._changed.wait(min(self._due_at(), next_sample) - now)
                if self._stopped:
                    return
                batch = self._head() if self._due_at() <= time.monotonic() else []
            if batch:
                self._settle(batch, self._attempt(partial(self._send, batch)))
            if next_sample <= time.monotonic():
                next_sample = time.monotonic() + self._pace.sample_s
                self._attempt(self._add_sample)

    def _due_at(self) -> float:
        if not self._queue:
            return math.inf
        pause = 0.0
        if self._num_failed:
            pause = min(self._pace.longest_pause_s, self._pace.first_pause_s * 2.0 ** min(self._num_failed - 1, 16))
        if self._hurry:  # `flush` waits: points gather no longer, and a store that is down is tried again soon
            return self._last_try + min(pause, self._pace.first_pause_s)
        return max(self._last_try + pause, self._queue[0].due)

    def _head(self) -> list[Task | Point]:
        first = self._queue[0].item
        if isinstance(first, Task) or self._singly:
            return [first]
        waiting = (queued.item for queued in itertools.islice(self._queue, _MAX_BATCH))
        return list(itertools.takewhile(lambda item: isinstance(item, Point), waiting))

    def _send(self, batch: list[Task | Point]) -> None:
        if isinstance(batch[0], Task):
            batch[0].work()
        else:
            self._deliver([item for item in batch if isinstance(item, Point)])

    def _add_sample(self) -> None:
        if self._num_failed:  # load readings of an outage are not worth a queue
            return
        point = self._sample()
        if point is not None:
            self.add(point)

    def _attempt(self, work: Callable[[], None]) -> Exception | None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 – the thread's boundary: an artifact store may raise any error
            return error
        return None

    def _settle(self, batch: list[Task | Point], error: Exception | None) -> None:
        with self._changed:
            self._last_try = time.monotonic()
            if error is None:
                if self._num_failed and "outage" in self._told:
                    _log.info("MLflow at %s answers again", self._where)
                self._done(batch)
            elif self._is_refused(batch[0], error):
                self._refuse(batch, error)
            else:
                if not self._num_failed:
                    self._failing_since = self._last_try
                self._num_failed += 1
                self._error = error
                if not (isinstance(batch[0], Task) and batch[0].quiet):
                    self._tell(
                        "outage",
                        f"MLflow at {self._where} does not answer ({explain(error)}): training continues, "
                        "and metrics are sent when it answers again",
                    )
            self._changed.notify_all()

    def _is_refused(self, item: Task | Point, error: Exception) -> bool:
        if isinstance(item, Point):
            return is_lasting(error)
        out_of_attempts = 0 < item.attempts <= self._num_failed + 1
        return not item.vital and (is_lasting(error) or out_of_attempts)

    def _refuse(self, batch: list[Task | Point], error: Exception) -> None:
        first = batch[0]
        if isinstance(first, Point) and len(batch) > 1:
            self._singly = len(batch) + 1  # _done subtracts one
            self._done([])
            return
        what = "metrics" if isinstance(first, Point) else first.what
        if isinstance(first, Point):
            self._num_left_out += len(first.metrics)
        self._tell(what, f"MLflow at {self._where} refuses {what} ({explain(error)}): left out")
        self._done(batch)

    def _done(self, batch: list[Task | Point]) -> None:
        self._last_answer = time.monotonic()
        self._error = None
        self._num_failed = 0
        self._singly = max(0, self._singly - 1)
        for _ in batch:
            self._queue.popleft()

    def _tell(self, what: str, message: str) -> None:
        if what not in self._told:
            self._told.add(what)
            _log.warning("%s", message)
