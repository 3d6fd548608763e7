"""What a run tells MLflow, behind a few verbs none of which waits for the store.

One parent run for the ensemble, a child a member, a grandchild a stage, found again by the tag `septet.run`. The
driver is the one writer: seven processes that open a fresh SQLite store at once fail (measured: up to 7 of 7).
"""

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.tracking.mlflow_store import DatasetInput, Store
from orchestrator.tracking.sender import REFUSED_S, Pace, Sender, Task
from orchestrator.tracking.uri import CLOSE_S, check_database_place, redact, sqlite_path
from workers.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.config.schema import TrackingConfig
    from orchestrator.plan.build import Plan, StageRef

_log = logging.getLogger(__name__)

ANSWER_S = 8.0  # the interface promises an end within 10 s


class Ending(StrEnum):
    """How a run ended, in MLflow's words."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


@dataclass(frozen=True)
class RunIdentity:
    """Which run this is: `run_id` is the UUID of run.json, `name` what people see. A run that resumes is not `new`."""

    run_id: str
    experiment: str
    plan_hash: str
    name: str
    new: bool = True


class Tracker(Protocol):
    """What a launch tells; all verbs return at once but `flush` and `close`, and all may be repeated."""

    @property
    def ids(self) -> dict[str, Any]:
        """For run.json, as far as known: uri, experiment_id, run_id (of the parent), members, stages."""

    def set_datasets(self, datasets: Mapping[str, DatasetInput]) -> None:
        """Names the prepared datasets by their configured names; stages that start later show theirs."""

    def stage_started(self, ref: "StageRef") -> None:
        """The stage's run, and its member's, are RUNNING."""

    def log(self, ref: "StageRef", step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Metrics at an update count, measured at `time_s` (Unix clock); one known already adds nothing."""

    def stage_finished(self, ref: "StageRef", status: str, tags: Mapping[str, str] | None = None) -> None:
        """Ends the stage's run; a stage known to be done from an earlier launch may be told again."""

    def tag(self, ref: "StageRef", key: str, value: str) -> None:
        """Sets a tag of the stage's run."""

    def log_member(self, member: str, scores: Mapping[str, float]) -> None:
        """Final scores of one member."""

    def log_ensemble(self, scores: Mapping[str, float]) -> None:
        """Final scores of the ensemble (`ensemble/top1_error` …), on the parent run."""

    def tag_ensemble(self, tags: Mapping[str, str]) -> None:
        """Sets tags of the parent run, replacing what they said."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copies a file or a folder's content to the parent run; it must stay until `flush` or `close`."""

    def flush(self, timeout_s: float = CLOSE_S) -> int:
        """Waits until all is in the store; returns how many metric values are not."""

    def close(self, status: str) -> None:
        """Ends the parent run and members still open; where the store is away, waits 10 s and says what it lacks."""


class NoTracker:
    """Takes everything and tells nobody."""

    @property
    def ids(self) -> dict[str, Any]:
        """None."""
        return {}

    def set_datasets(self, datasets: Mapping[str, DatasetInput]) -> None:
        """Does nothing."""

    def stage_started(self, ref: "StageRef") -> None:
        """Does nothing."""

    def log(self, ref: "StageRef", step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def stage_finished(self, ref: "StageRef", status: str, tags: Mapping[str, str] | None = None) -> None:
        """Does nothing."""

    def tag(self, ref: "StageRef", key: str, value: str) -> None:
        """Does nothing."""

    def log_member(self, member: str, scores: Mapping[str, float]) -> None:
        """Does nothing."""

    def log_ensemble(self, scores: Mapping[str, float]) -> None:
        """Does nothing."""

    def tag_ensemble(self, tags: Mapping[str, str]) -> None:
        """Does nothing."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Does nothing."""

    def flush(self, timeout_s: float = CLOSE_S) -> int:  # noqa: ARG002 – the protocol's
        """Nothing is left out."""
        return 0

    def close(self, status: str) -> None:
        """Does nothing."""


def open_tracking(
    config: "TrackingConfig",
    run: RunIdentity,
    plan: "Plan",
    params: Mapping[str, object],
    tags: Mapping[str, str],
    pace: Pace | None = None,
) -> Tracker:
    """Opens the store, finds or makes the parent run, and starts sending.

    Args:
        config: `uri` absolute; `required`: a new run does not start without the store.
        run: which run this is.
        plan: its stages name the members and stages; their settings become parameters.
        params: short values people compare ensembles by; they go to the parent run, and never change.
        tags: alike, but such that a later launch of the run may give another value, which then replaces the first.
        pace: other times than the usual, for tests.

    Raises:
        ConfigError: the run is new, the store required, and it did not answer within 10 s.
    """
    from orchestrator.tracking.mlflow_tracker import MlflowTracker

    tracker = MlflowTracker(config.uri, run, plan, params, tags, pace)
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
            "MLflow at %s: %s; training goes on, what is logged is sent once it answers", redact(config.uri), problem
        )
    return tracker


def probe(uri: str, timeout_s: float = ANSWER_S) -> str:
    """Asks whether the store answers, and makes nothing: what it says, in a few words.

    Raises:
        ConfigError: it does not answer, or not as an MLflow store would.
    """
    path = sqlite_path(uri)
    if path is not None:
        try:
            check_database_place(path)
            return _look_into(path, timeout_s)
        except (ConfigError, sqlite3.Error) as error:
            raise _unreachable(uri, str(error)) from error
    store = Store(uri, "", "")
    sender = Sender(store.add_points, redact(uri))
    answered = threading.Event()

    def ask() -> None:
        store.ping()
        answered.set()

    sender.submit(Task(ask, "the question", vital=True, quiet=True))
    problem = sender.wait_for(answered, timeout_s, min(REFUSED_S, timeout_s))
    sender.stop()
    if problem:
        raise _unreachable(uri, problem)
    return f"{redact(uri)} answers"


def _look_into(path: Path, timeout_s: float) -> str:
    if not path.exists():
        return f"{path} will be made"
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", timeout_s, uri=True)) as database:
        database.execute("SELECT count(*) FROM sqlite_master")
    return f"{path} opens"


def _unreachable(uri: str, problem: str) -> ConfigError:
    return ConfigError(
        f"tracking store {redact(uri)} cannot be used: {problem}; start it, mend tracking.uri, "
        "or go on without it by tracking.required=false"
    )
