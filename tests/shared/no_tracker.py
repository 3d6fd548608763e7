"""A tracker for tests that look at something else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.plan import StageRef
from orchestrator.tracking import DatasetInput


class NoTracker:
    """Takes everything and tells nobody."""

    @property
    def ids(self) -> dict[str, Any]:
        return {}

    def set_datasets(self, datasets: Mapping[str, DatasetInput]) -> None:
        pass

    def stage_started(self, ref: StageRef) -> None:
        pass

    def log(self, ref: StageRef, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        pass

    def stage_finished(self, ref: StageRef, status: str, tags: Mapping[str, str] | None = None) -> None:
        pass

    def tag(self, ref: StageRef, key: str, value: str) -> None:
        pass

    def log_member(self, member: str, scores: Mapping[str, float]) -> None:
        pass

    def log_ensemble(self, scores: Mapping[str, float]) -> None:
        pass

    def tag_ensemble(self, tags: Mapping[str, str]) -> None:
        pass

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        pass

    def close(self, status: str) -> None:
        pass
