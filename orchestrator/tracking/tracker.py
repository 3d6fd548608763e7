"""Defines the tracker: a few verbs that log a run and do not wait for the store.

The ensemble has a parent run, each member a child, each stage a grandchild; the tag `septet.run` finds them again. Only
the driver writes: if seven processes open a new SQLite store at once, up to seven fail (measured).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from orchestrator.plan import StageRef
from orchestrator.tracking.mlflow_store import DatasetInput


class Ending(StrEnum):
    """Says how a run ended, in MLflow's words."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


@dataclass(frozen=True)
class RunIdentity:
    """Identifies a run: `run_id` is the UUID of run.json, `name` is for people. A resumed run is not `new`."""

    run_id: str
    experiment: str
    plan_hash: str
    name: str
    new: bool = True


class Tracker(Protocol):
    """Logs a launch; every verb but `close` returns at once, and each may be repeated."""

    @property
    def ids(self) -> dict[str, Any]:
        """Returns what run.json keeps, as far as known: uri, experiment_id, run_id (of the parent), members, stages."""

    def set_datasets(self, datasets: Mapping[str, DatasetInput]) -> None:
        """Adds the prepared datasets, by their configured names, to the parent run and to stages that start later."""

    def stage_started(self, ref: StageRef) -> None:
        """Sets the runs of the stage and of its member RUNNING."""

    def log(self, ref: StageRef, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Logs metrics at an update count, measured at `time_s` (Unix clock); known ones add nothing."""

    def stage_finished(self, ref: StageRef, status: str, tags: Mapping[str, str] | None = None) -> None:
        """Ends the stage's run; this may be repeated in a later launch."""

    def tag(self, ref: StageRef, key: str, value: str) -> None:
        """Sets a tag of the stage's run."""

    def log_member(self, member: str, scores: Mapping[str, float]) -> None:
        """Logs the final scores of one member, on its run."""

    def log_ensemble(self, scores: Mapping[str, float]) -> None:
        """Logs the final scores of the ensemble (`ensemble/top1_error` …), on the parent run."""

    def tag_ensemble(self, tags: Mapping[str, str]) -> None:
        """Sets tags of the parent run and replaces their values."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copies a file or a folder's content to the parent run; it must stay until `close`."""

    def close(self, status: str) -> None:
        """Ends the parent run and every open run; if the store is down, waits 10 s and logs what the store lacks."""
