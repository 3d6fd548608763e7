"""What a run tells MLflow, behind a few verbs none of which waits for the store.

One parent run for the ensemble, a child a member, a grandchild a stage, found again by the tag `septet.run`. The
driver is the one writer: seven processes that open a fresh SQLite store at once fail (measured: up to 7 of 7).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.tracking.mlflow_store import DatasetInput

if TYPE_CHECKING:
    from orchestrator.plan import StageRef


_log = logging.getLogger(__name__)


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
    """What a launch tells; all verbs return at once but `close`, and all may be repeated."""

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
        """Copies a file or a folder's content to the parent run; it must stay until `close`."""

    def close(self, status: str) -> None:
        """Ends the parent run and members still open; where the store is away, waits 10 s and says what it lacks."""
