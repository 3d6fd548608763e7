"""A whole launch inside the test's own process, by the command line: one member of four epochs, in a thread.

So a fault can be put anywhere by monkeypatch, and still the exit code, the line on stderr, the submission and the files
are those of `septet launch`.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import write_ensemble
from one_slot import one_slot

from orchestrator import cluster
from orchestrator.cli.program import main
from orchestrator.run.holder import is_locked
from orchestrator.run.ledger import AttemptEnd, Entry, read_ledger
from orchestrator.run.paths import RunPaths

NUM_UPDATES = 12
MEMBER = "solo"
SETTINGS = (
    *("ensemble=solo", "cluster.cpus_per_member=1", "precision=fp32", "checkpoint_updates=4", "model.width=0.05"),
    # Three updates an epoch: metrics.jsonl then has a point at every update.
    *("model.fc_units=16", "optimizer.batch_size=400", "ensemble.stages.train.epochs=4"),
)


@dataclass(frozen=True)
class Place:
    """A run directory; store and tracking database are shared by all of them."""

    root: Path
    shared: Path

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.root)

    @property
    def stage_dir(self) -> Path:
        return self.paths.members / MEMBER / "train"

    @property
    def checkpoints(self) -> Path:
        return self.stage_dir / "checkpoints"

    @property
    def entry(self) -> Entry:
        return read_ledger(self.paths.ledger).stages[f"{MEMBER}/train"]

    @property
    def outcomes(self) -> list[AttemptEnd | None]:
        return [attempt.outcome for attempt in self.entry.attempts]

    def words(self, *more: str, uri: str = "") -> list[str]:
        """The command line of a launch; `uri` is the tracking's."""
        groups = write_ensemble(self.shared / "groups", "solo", MEMBER)
        here = (f"--config-dir={groups}", f"run_dir={self.root}", f"datasets.store={self.shared / 'store'}")
        return ["launch", *here, f"tracking.uri={uri or f'sqlite:///{self.shared}/mlflow.db'}", *SETTINGS, *more]

    def launch(self, *more: str, uri: str = "") -> int:
        """The exit code of `septet launch`, with the members in threads of this process."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cluster, "open_cluster", one_slot)
            return main(self.words(*more, uri=uri))

    def has_submission(self) -> bool:
        return any(self.paths.submission.glob("submission.*"))

    def leftovers(self) -> list[Path]:
        """Temporary files and locks that somebody still holds."""
        left = list(self.root.rglob(".tmp-*"))
        return [*left, self.paths.lock] if is_locked(self.paths) else left
