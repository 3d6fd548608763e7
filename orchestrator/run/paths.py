"""Names the files of a run directory. `workers.storage.layout` names those that workers write in their folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workers.storage import layout

if TYPE_CHECKING:
    from orchestrator.plan import StageRef

# In `submission`: one of SUBMISSION_FILES, and the manifest that records how it was made.
SUBMISSION_MANIFEST = "manifest.json"
SUBMISSION_FILES = ("submission.txt", "submission.csv")


@dataclass(frozen=True)
class RunPaths:
    """Every path inside the run directory `root`."""

    root: Path

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def stop_request(self) -> Path:
        return self.root / ".stop"

    @property
    def run_json(self) -> Path:
        return self.root / "run.json"

    @property
    def config_yaml(self) -> Path:
        return self.root / "config.yaml"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.json"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def prepared_sheet(self) -> Path:
        """Returns the contact sheet of prepared images; `augmented_sheet` shows them as a net sees them."""
        return self.data / layout.PREPARED

    @property
    def members(self) -> Path:
        return self.root / "members"

    @property
    def submission(self) -> Path:
        return self.root / "submission"

    @property
    def submission_manifest(self) -> Path:
        return self.submission / SUBMISSION_MANIFEST

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def report_page(self) -> Path:
        return self.report / "index.html"

    @property
    def report_table(self) -> Path:
        return self.report / "table.md"

    @property
    def report_scores(self) -> Path:
        return self.report / "scores.json"

    def figure(self, name: str) -> Path:
        return self.report / "figures" / f"{name}.png"

    def member(self, member: str) -> Path:
        return self.members / member

    def stage(self, ref: "StageRef") -> Path:
        return self.members / ref.member / ref.stage

    def checkpoints(self, ref: "StageRef") -> Path:
        return self.stage(ref) / layout.CHECKPOINTS

    def metrics(self, ref: "StageRef") -> Path:
        return self.stage(ref) / layout.METRICS

    def step(self, ref: "StageRef") -> Path:
        return self.stage(ref) / layout.STEP

    def log(self, ref: "StageRef") -> Path:
        return self.stage(ref) / layout.LOG

    def augmented_sheet(self, ref: "StageRef") -> Path:
        return self.stage(ref) / layout.AUGMENTED

    def done(self, ref: "StageRef") -> Path:
        return self.stage(ref) / layout.DONE

    def predictions(self, member: str) -> Path:
        return self.members / member / layout.PREDICTIONS
