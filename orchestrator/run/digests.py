"""Digests of all that the driver has committed, kept in run.json: what the run's files are held against later.

The chain: a submission's manifest.json names the sha256 of the file and of each member's predictions and checkpoint;
run.json has the sha256 of that manifest, of every finished stage's checkpoint, of every file of predictions and of
data/. So a file that is altered together with the small file beside it that describes it is found. Who rewrites
run.json as well is not: for that the manifest's sha256 lies outside the run too (a tag of the MLflow run, the line that
launch, submit and verify print).

Runs of versions that kept none have empty digests; what has no digest is compared with none.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.plan import StageRef
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import read_record, write_record
from workers.errors import CheckFailed, StorageError
from workers.storage import layout, sha256_of, storage_errors

_DATA_FILES = (layout.CLASSES, layout.DATASET, layout.rows("*"), layout.labels("*"), layout.sizes("*"))


@dataclass(frozen=True)
class SubmissionDigests:
    """What a submission is known by: its file's name and sha256, and that of the manifest beside it."""

    file: str
    sha256: str
    manifest_sha256: str


@dataclass(frozen=True)
class Committed:
    """sha256 of what is committed: `stages` (model weights) by `member/stage`, `predictions` by member and split.

    `data` is by file name. `announced` is a submission that was about to take the place of `submission`: it is
    there only where the writer was killed.
    """

    stages: Mapping[str, str] = field(default_factory=dict)
    predictions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    submission: SubmissionDigests | None = None
    announced: SubmissionDigests | None = None

    def of_predictions(self, member: str, split: str) -> str | None:
        """The digest of one file of predictions; None where none was recorded."""
        return self.predictions.get(member, {}).get(split)


def committed_from_json(value: Mapping[str, Any]) -> Committed:
    """What run.json keeps under `committed`; empty for a run that has no such entry.

    Raises:
        StorageError: it is no such entry.
    """
    try:
        return Committed(
            stages=dict(value.get("stages", {})),
            predictions={member: dict(own) for member, own in value.get("predictions", {}).items()},
            data=dict(value.get("data", {})),
            submission=SubmissionDigests(**value["submission"]) if value.get("submission") else None,
            announced=SubmissionDigests(**value["announced"]) if value.get("announced") else None,
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"run.json: its entry `committed` is damaged ({error}); restore it") from error


class Book:
    """Reads and adds to the digests of one run; only the holder of the run directory's lock writes.

    `read` and `write` get and put what run.json has under `committed`; without them the book is kept in memory.
    """

    def __init__(
        self,
        read: Callable[[], Mapping[str, Any]] | None = None,
        write: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._kept: Mapping[str, Any] = {}
        self._read = read or (lambda: self._kept)
        self._write = write or self._keep

    def _keep(self, value: Mapping[str, Any]) -> None:
        self._kept = value

    @property
    def committed(self) -> Committed:
        return committed_from_json(self._read())

    def stage(self, ref: StageRef, checkpoint_sha256: str) -> None:
        """Notes a stage's final checkpoint. Before DONE.json is written: a kill in between leaves a stage to redo."""
        before = self.committed
        self._put(replace(before, stages={**before.stages, str(ref): checkpoint_sha256}))

    def predictions(self, member: str, sha256: Mapping[str, str]) -> None:
        """Notes a member's predictions, by split."""
        before = self.committed
        self._put(replace(before, predictions={**before.predictions, member: dict(sha256)}))

    def data(self, folder: Path) -> None:
        """Notes the files of RUN_DIR/data as they have just been exported."""
        self._put(replace(self.committed, data=data_digests(folder)))

    def settle(self, manifest: Path) -> None:
        """Of a writer that was killed: notes its submission as the one in place where it had come that far."""
        then = self.committed.announced
        with storage_errors(manifest):
            if then is not None and manifest.is_file() and sha256_of(manifest) == then.manifest_sha256:
                self.submission(then)

    def announce(self, digests: SubmissionDigests) -> None:
        """Notes the submission that is about to take its place: one that a kill cut off is still known."""
        self._put(replace(self.committed, announced=digests))

    def submission(self, digests: SubmissionDigests) -> None:
        """Notes the submission that now has its place."""
        self._put(replace(self.committed, submission=digests, announced=None))

    def _put(self, committed: Committed) -> None:
        if committed != self.committed:
            self._write(asdict(committed))


def open_book(paths: RunPaths) -> Book:
    """The book of a run that no launch has open; the caller holds its lock if it writes."""
    return Book(
        lambda: read_record(paths).committed,
        lambda value: write_record(paths, replace(read_record(paths), committed=value)),
    )


def data_digests(folder: Path) -> dict[str, str]:
    """sha256 by name of the files of RUN_DIR/data that scores and submissions are made from."""
    with storage_errors(folder):
        files = sorted(path for pattern in _DATA_FILES for path in folder.glob(pattern))
        return {path.name: sha256_of(path) for path in files}


def alteration(what: str, found: str, recorded: str | None) -> str:
    """Says that `found` is not the digest that run.json recorded; "" where it is, or where none was recorded."""
    if recorded is None or recorded == found:
        return ""
    return f"{what} was altered since it was committed (sha256 {found[:12]}, recorded {recorded[:12]} in run.json)"


def require_stage(committed: Committed, ref: StageRef, folder: Path, checkpoint_sha256: str) -> None:
    """Raises CheckFailed where the DONE.json in `folder` names another checkpoint than was committed."""
    what = f"{folder}: the checkpoint that {layout.DONE} names"
    altered = alteration(what, checkpoint_sha256, committed.stages.get(str(ref)))
    if altered:
        raise CheckFailed(f"{altered}: restore it, or remove that folder and run `septet launch` again")


def require_data(committed: Committed, folder: Path) -> None:
    """Raises CheckFailed where a file of RUN_DIR/data is not what was exported."""
    now = data_digests(folder) if committed.data else {}
    for name in sorted(committed.data):
        altered = alteration(f"{folder / name}", now.get(name, "none"), committed.data[name])
        if altered:
            raise CheckFailed(f"{altered}: run `septet launch` again, which fixes it")
