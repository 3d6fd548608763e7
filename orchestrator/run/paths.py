"""Names the files of a run directory. `workers.storage.layout` names those that workers write in their folders."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workers.storage import layout

if TYPE_CHECKING:
    from orchestrator.plan import StageRef

# In `submission`: one of SUBMISSION_FILES, the manifest that records how it was made, and how sure each answer is.
SUBMISSION_MANIFEST = "manifest.json"
SUBMISSION_FILES = ("submission.txt", "submission.csv")
UNCERTAINTY = "uncertainty.parquet"


class _At:
    """A path below the run directory, given by its parts."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __get__(self, paths: "RunPaths", _owner: type) -> Path:
        return paths.root.joinpath(*self._parts)


class _OfStage:
    """A function that returns a path in the folder of a stage."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, paths: "RunPaths", _owner: type) -> "Callable[[StageRef], Path]":
        return lambda ref: paths.stage(ref) / self._name


@dataclass(frozen=True)
class RunPaths:
    """Every path inside the run directory `root`.

    `prepared_sheet` is the contact sheet of prepared images; `augmented_sheet` shows them as a net sees them.
    """

    root: Path

    lock = _At(".lock")
    stop_request = _At(".stop")
    run_json = _At("run.json")
    config_yaml = _At("config.yaml")
    ledger = _At("ledger.json")
    data = _At("data")
    code = _At("code")
    prepared_sheet = _At("data", layout.PREPARED)
    members = _At("members")
    submission = _At("submission")
    submission_manifest = _At("submission", SUBMISSION_MANIFEST)
    report = _At("report")
    report_page = _At("report", "index.html")
    report_table = _At("report", "table.md")
    report_scores = _At("report", "scores.json")
    report_pictures = _At("report", "pictures.json")
    review_page = _At("report", "review.html")
    checkpoints = _OfStage(layout.CHECKPOINTS)
    metrics = _OfStage(layout.METRICS)
    step = _OfStage(layout.STEP)
    log = _OfStage(layout.LOG)
    augmented_sheet = _OfStage(layout.AUGMENTED)
    done = _OfStage(layout.DONE)

    def figure(self, name: str, kind: str = "png") -> Path:
        """Returns the path of a figure, or of its numbers as `csv`."""
        return self.report / "figures" / f"{name}.{kind}"

    def review(self, number: int) -> Path:
        """Returns the path of the list of labels to review; from 2 on, of one beside those that were filled in."""
        return self.report / f"review{f'-{number}' if number > 1 else ''}.csv"

    def member(self, member: str) -> Path:
        return self.members / member

    def stage(self, ref: "StageRef") -> Path:
        return self.members / ref.member / ref.stage

    def predictions(self, member: str) -> Path:
        return self.members / member / layout.PREDICTIONS
