"""Records digests of everything the driver commits in run.json, and compares files with them later.

They form a chain: a submission's manifest.json has the sha256 of the file and of each member's predictions and
checkpoint, and run.json that of the manifest and of what `Committed` lists. This detects a file that was changed
together with the file that describes it. To detect a changed run.json, the manifest's sha256 is also kept outside the
run: in a tag of the MLflow run, and in the line that launch, submit and verify print.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.plan import StageRef
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import Committed, SubmissionDigests, read_record, write_record
from workers.errors import CheckFailed
from workers.storage import layout, sha256_of, storage_errors

_DATA_FILES = (layout.CLASSES, layout.DATASET, layout.rows("*"), layout.labels("*"), layout.sizes("*"), layout.FOLDS)


class Book:
    """Reads and adds digests of one run; only the holder of the run directory's lock writes."""

    def __init__(self, read: Callable[[], Committed], write: Callable[[Committed], None]) -> None:
        """`read` and `write` get and replace the entry `committed` of run.json."""
        self._read, self._write = read, write

    @property
    def committed(self) -> Committed:
        return self._read()

    def results(self, stages: Mapping[StageRef, str], predictions: Mapping[str, Mapping[str, str]]) -> None:
        """Records final checkpoints, and predictions by member and split, in one write: run.json grows with the plan.

        A checkpoint's is there before its DONE.json is written: a kill in between only redoes the stage.
        """
        before = self.committed
        done = {**before.stages, **{str(ref): sha256 for ref, sha256 in stages.items()}}
        self._put(replace(before, stages=done, predictions={**before.predictions, **predictions}))

    def data(self, folder: Path) -> None:
        """Records the files of RUN_DIR/data just after their export."""
        self._put(replace(self.committed, data=data_digests(folder)))

    def settle(self, manifest: Path) -> None:
        """Records the announced submission as the current one if its killed writer had already put it in place."""
        then = self.committed.announced
        with storage_errors(manifest):
            if then is not None and manifest.is_file() and sha256_of(manifest) == then.manifest_sha256:
                self.submission(then)

    def announce(self, digests: SubmissionDigests) -> None:
        """Records the submission that is about to be put in place, so that it is known even if a kill interrupts."""
        self._put(replace(self.committed, announced=digests))

    def submission(self, digests: SubmissionDigests) -> None:
        """Records the submission that is now in place."""
        self._put(replace(self.committed, submission=digests, announced=None))

    def _put(self, committed: Committed) -> None:
        if committed != self.committed:
            self._write(committed)


def open_book(paths: RunPaths) -> Book:
    """Returns the book of a run that no launch has open; the caller must hold its lock to write."""
    return Book(
        lambda: read_record(paths).committed,
        lambda value: write_record(paths, replace(read_record(paths), committed=value)),
    )


def data_digests(folder: Path) -> dict[str, str]:
    """Returns the sha256, by name, of the files of RUN_DIR/data that scores and submissions use."""
    with storage_errors(folder):
        files = sorted(path for pattern in _DATA_FILES for path in folder.glob(pattern))
        return {path.name: sha256_of(path) for path in files}


def alteration(what: str, found: str, recorded: str) -> str:
    """Returns a message if `found` is not the `recorded` digest of `what` ("" for none in run.json), else ""."""
    if found == recorded:
        return ""
    if not recorded:
        return f"{what} is not recorded in run.json (sha256 {found[:12]})"
    return f"{what} was altered since it was committed (sha256 {found[:12]}, recorded {recorded[:12]} in run.json)"


def require_stage(committed: Committed, ref: StageRef, folder: Path, checkpoint_sha256: str) -> None:
    """Raises CheckFailed unless the DONE.json in `folder` names the checkpoint that was committed."""
    what = f"{folder}: the checkpoint that {layout.DONE} names"
    if altered := alteration(what, checkpoint_sha256, committed.stages.get(str(ref), "")):
        raise CheckFailed(f"{altered}: restore it, or delete that folder and run `septet launch` again")


def require_data(committed: Committed, folder: Path) -> None:
    """Raises CheckFailed unless the files of RUN_DIR/data are the exported ones."""
    now = data_digests(folder)
    for name in sorted({*now, *committed.data}):
        if altered := alteration(str(folder / name), now.get(name, "none"), committed.data.get(name, "")):
            raise CheckFailed(f"{altered}: run `septet launch` again to export it again")
