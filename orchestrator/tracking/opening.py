"""Opens a tracking store for a run, or only checks that it answers."""

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Mapping

from orchestrator.config import TrackingConfig
from orchestrator.plan import Plan
from orchestrator.text import redact
from orchestrator.tracking.connection import check_schema, connect, make_database
from orchestrator.tracking.sender import REFUSED_S, Pace, Sender, Task
from orchestrator.tracking.tracker import Ending, RunIdentity, Tracker
from orchestrator.tracking.uri import check_database_place, meant, sqlite_path
from workers.errors import ConfigError

ANSWER_S = 8.0  # the interface promises an end within 10 s
_log = logging.getLogger(__name__)


def open_tracking(
    config: TrackingConfig,
    run: RunIdentity,
    plan: Plan,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    pace: Pace | None = None,
) -> Tracker:
    """Opens the store, finds or makes the parent run, and starts sending.

    Args:
        config: has an absolute `uri`; with `required`, a new run does not start without the store.
        run: identifies the run.
        plan: names the members and stages; their settings become parameters.
        params: short values of the parent run, by which people compare ensembles; they never change.
        tags: short values of the parent run that a later launch may replace.
        pace: times of the sender; tests shorten them.

    Raises:
        ConfigError: the run is new, the store is required, and it did not answer within 10 s.
    """
    with contextlib.suppress(ConfigError):
        # Here and not in the sender, since it may take longer than a store may take to answer.
        make_database(config.uri)
    tracker = Tracker(config.uri, run, plan, params, tags, pace)
    try:
        problem = tracker.wait_until_open(needed=run.new and config.required)
    except KeyboardInterrupt:
        tracker.close(Ending.KILLED)
        raise
    if problem and run.new and config.required:
        tracker.abandon()
        raise _unreachable(config.uri, problem)
    if problem:
        _log.warning(
            "MLflow at %s: %s; training continues, and metrics are sent when it answers", redact(config.uri), problem
        )
    return tracker


def probe(uri: str, timeout_s: float = ANSWER_S) -> str:
    """Checks that the store answers, without changing it; returns the result in a few words.

    Raises:
        ConfigError: the store does not answer, or is no MLflow store.
    """
    path = sqlite_path(uri)
    if path is not None:
        try:
            check_database_place(path)
            if not path.exists():
                return f"{path} will be made"
            address = f"{path.absolute().as_uri()}?mode=ro"
            with contextlib.closing(sqlite3.connect(address, timeout_s, uri=True)) as database:
                database.execute("SELECT count(*) FROM sqlite_master")
            check_schema(path)
            return f"{path} opens"
        except (ConfigError, sqlite3.Error) as error:
            raise _unreachable(uri, str(error)) from error
    sender = Sender(lambda _: None, redact(uri))
    answered = threading.Event()

    def ask() -> None:
        connect(uri)
        answered.set()

    sender.submit(Task(ask, "the question", vital=True, quiet=True))
    problem = sender.wait_for(answered, timeout_s, min(REFUSED_S, timeout_s))
    sender.stop()
    if problem:
        raise _unreachable(uri, problem)
    return f"{redact(uri)} answers"


def _unreachable(uri: str, problem: str) -> ConfigError:
    if (address := meant(uri)) is not None:
        return ConfigError(f"tracking store {redact(uri)} is no address: did you mean tracking.uri={redact(address)}?")
    return ConfigError(
        f"tracking store {redact(uri)} cannot be used: {problem}; start it, correct tracking.uri, "
        "or use tracking.required=false to continue without it"
    )
