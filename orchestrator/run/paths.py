"""The run directory: where its files lie, who holds it, and what run.json remembers.

`RunPaths` knows where every file lies; what a worker writes inside its own folder is named there too. The lock is a
flock on a file that a run never removes: the kernel frees it with the holder's death, however that came, and the
holder's pid and host inside are only for the message.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.plan import StageRef


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
        """Prepared images of every split of the target; what a net sees of them is `augmented_sheet`."""
        return self.data / "prepared.png"

    @property
    def members(self) -> Path:
        return self.root / "members"

    @property
    def submission(self) -> Path:
        return self.root / "submission"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def member(self, member: str) -> Path:
        return self.members / member

    def stage(self, ref: "StageRef") -> Path:
        return self.members / ref.member / ref.stage

    def checkpoints(self, ref: "StageRef") -> Path:
        return self.stage(ref) / "checkpoints"

    def metrics(self, ref: "StageRef") -> Path:
        return self.stage(ref) / "metrics.jsonl"

    def step(self, ref: "StageRef") -> Path:
        return self.stage(ref) / "step.txt"

    def log(self, ref: "StageRef") -> Path:
        return self.stage(ref) / "log.txt"

    def augmented_sheet(self, ref: "StageRef") -> Path:
        return self.stage(ref) / "augmented.png"

    def done(self, ref: "StageRef") -> Path:
        return self.stage(ref) / "DONE.json"

    def predictions(self, member: str) -> Path:
        return self.members / member / "predictions"
