"""Opens a run directory: a new one, one of the same plan to resume, or one that the plan extends; refuses others.

A refusal changes nothing: an existing run is compared before the lock is touched, and a directory made here is deleted
unless the run has begun.
"""

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.plan import ChangeKind, Plan, compare, plan_from_json, plan_to_json
from orchestrator.run.digests import Book
from orchestrator.run.holder import Holder, lock
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import Committed, RunRecord, read_record, write_record
from workers.errors import ConfigError, RunMismatch, StorageError
from workers.protocol import Numerics
from workers.settings import Crops, KeptCheckpoint
from workers.storage import TEMPORARY_PREFIX, hold, layout, make_folder, newest_step, remove_leftovers, write_text

_SHOWN_LINES = 5


@dataclass(frozen=True)
class Wanted:
    """The plan, configuration and code of a launch, which its run must match.

    Attributes:
        lacking: returns what this machine lacks of given numerics, or "".
        command: the words of the command line, without passwords, typed in `directory`.
    """

    plan: Plan
    config_yaml: str
    keep: KeptCheckpoint
    code_digest: str
    versions: Mapping[str, str]
    lacking: Callable[[Numerics], str]
    crops: Crops = Crops.ten
    command: tuple[str, ...] = ()
    directory: str = ""


class OpenedRun:
    """A run directory held by this process. The files of a new run are deleted again unless `commit` is called.

    A launch calls `begin` once its datasets are prepared, and `commit` once nothing can refuse it any more.
    """

    def __init__(self, paths: RunPaths, record: RunRecord, wanted: Wanted, *, new: bool, accept_changes: bool) -> None:
        self.paths = paths
        self.new = new
        self.committed = False
        self.holder: Holder  # set by `open_run`
        self.record = record
        self._wanted = wanted
        self._accept_changes = accept_changes

    def begin(
        self,
        digests: Mapping[str, str],
        stores: Mapping[str, Path],
        choose: Callable[[RunRecord], RunRecord],
        keep_data: Callable[[Path], None],
        check: Callable[[RunRecord], None] = lambda _: None,
    ) -> None:
        """Fixes the run's data and numerics, and writes run.json, config.yaml and data/.

        MLflow is used only after this, since it finds runs again by the id in run.json.

        Args:
            digests: content digests of the prepared datasets, by name.
            stores: their folders, by name.
            choose: adds the numerics, why they were chosen, and what of them this machine lacks;
                called only for a new run, since other numerics change the bits.
            keep_data: writes the run's copy of its target dataset into the given folder.
            check: as `choose`, raises if the run cannot be done, for one that is not new; nothing is written then.

        Raises:
            RunMismatch: a dataset's content has changed since the run began.
        """
        before = self.record.data_digests
        self._accept(
            tuple(
                f"the content of datasets.{name} (digest {before[name][:12]} → {digest[:12]})"
                for name, digest in digests.items()
                if before.get(name, digest) != digest
            )
        )
        paths = {name: str(path) for name, path in stores.items()}
        self.record = replace(self.record, data_digests={**before, **digests}, stores={**self.record.stores, **paths})
        if self.new:
            self.record = choose(self.record)
        else:
            check(self.record)
        write_record(self.paths, self.record)
        write_text(self.paths.config_yaml, self._wanted.config_yaml)
        keep_data(self.paths.data)
        self.book.data(self.paths.data)

    def commit(self) -> None:
        """Marks the run as begun, so that its directory stays, and deletes what killed writers left in it."""
        self.committed = True
        # os.walk ignores folders that vanish meanwhile, as those of a killed driver's last worker may.
        for folder, inner, _ in os.walk(self.paths.root):
            # A stage cleans its own checkpoints.
            inner[:] = [name for name in inner if name != layout.CHECKPOINTS]
            remove_leftovers(Path(folder))

    def save_mlflow(self, ids: Mapping[str, Any]) -> None:
        """Records MLflow's ids in run.json if they have changed; an unreachable store does not delete them."""
        known = self.record.mlflow
        if ids and not ids["run_id"] and known.get("uri") == ids["uri"]:
            return
        if dict(ids) != known:
            self.record = replace(self.record, mlflow=dict(ids))
            write_record(self.paths, self.record)

    @property
    def book(self) -> Book:
        """Returns the digests of what is committed; each change is in run.json before its method returns."""
        return Book(lambda: self.record.committed, self._save_committed)

    def _save_committed(self, value: Committed) -> None:
        self.record = replace(self.record, committed=value)
        write_record(self.paths, self.record)

    def check_outside(self, recorded: Plan) -> None:
        """Raises RunMismatch if files of the `recorded` plan's members from outside have changed."""
        self._accept(compare(recorded, self._wanted.plan).replaced)

    def check_code(self) -> None:
        """Raises RunMismatch if `workers` or torch have changed since the run began."""
        old, new = self.record.code_digest, self._wanted.code_digest
        if old != new:
            versions = (self.record.versions, self._wanted.versions)
            before, after = (each.get("torch", "absent") for each in versions)
            code = f"the code of workers/ (digest {old[:12]} → {new[:12]})"
            self._accept((code if before == after else f"torch ({before} → {after})",))
            self.record = replace(self.record, code_digest=new, versions=dict(self._wanted.versions))

    def check_machine(self) -> None:
        """Raises RunMismatch if a resumed run would compute with other hardware or kernels than it began with.

        If that is accepted, the run continues without a kernel that is missing here.
        """
        numerics = self.record.numerics
        lacked = self._wanted.lacking(numerics)
        if self.new or lacked == self.record.lacked:
            return
        self._accept((f"the machine (this one {f'lacks {lacked}' if lacked else f'has {self.record.lacked}'})",))
        if self._wanted.lacking(replace(numerics, precision="fp32")):
            numerics = replace(numerics, kernels="torch")
        self.record = replace(self.record, numerics=numerics, lacked=self._wanted.lacking(numerics))

    def _accept(self, changes: tuple[str, ...]) -> None:
        if not changes:
            return
        if not self._accept_changes:
            raise RunMismatch(
                f"{self.paths.root}: since the run began, {'; '.join(changes)} changed: undo that, "
                "give another run_dir, or add --accept-changes to continue with them"
            )
        self.record = replace(self.record, accepted=(*self.record.accepted, *changes))


@contextmanager
def open_run(root: Path, wanted: Wanted, *, accept_changes: bool = False) -> Iterator[OpenedRun]:
    """Opens and locks the run directory `root` for the length of the block.

    Raises:
        RunInUse: another process holds it.
        RunMismatch: it holds another plan, or began with other code.
        ConfigError: it has files, but no run.
        StorageError: it cannot be made, read or written there.
    """
    paths = RunPaths(root.absolute())
    try:
        _opened(paths, wanted, accept_changes)
        made = make_folder(paths.root, "run_dir")
    except OSError as error:
        raise StorageError(f"run_dir={root}: cannot be used ({error.strerror}); give another") from error
    with lock(paths, obeys=True) as holder:
        new = not paths.run_json.exists()
        run = None
        try:
            run = _opened(paths, wanted, accept_changes)
            run.holder = holder
            hold(paths.root)
            yield run
        finally:
            if new and not (run and run.committed):
                _remove(paths, made)


def _opened(paths: RunPaths, wanted: Wanted, accept_changes: bool) -> OpenedRun:
    new = not paths.run_json.exists()
    if new:
        _check_vacant(paths)
    before = None if new else read_record(paths)
    record = _first_record(wanted) if before is None else _compared(paths, before, wanted)
    run = OpenedRun(paths, record, wanted, new=new, accept_changes=accept_changes)
    if before is not None:
        run.check_outside(plan_from_json(before.plan))
    run.check_code()
    run.check_machine()
    return run


def _check_vacant(paths: RunPaths) -> None:
    if not paths.root.exists():
        return
    if not paths.root.is_dir():
        raise ConfigError(f"run_dir={paths.root}: is not a folder; give another")
    others = [
        entry.name
        for entry in paths.root.iterdir()
        if entry not in (paths.lock, paths.stop_request) and not entry.name.startswith(TEMPORARY_PREFIX)
    ]
    if others:
        raise ConfigError(f"run_dir={paths.root}: has {min(others)} but no run.json; give a new or empty folder")


def _first_record(wanted: Wanted) -> RunRecord:
    return RunRecord(
        run_id=str(uuid.uuid4()),
        experiment=wanted.plan.experiment,
        plan=plan_to_json(wanted.plan),
        plan_hash=wanted.plan.hash,
        created=time.time(),
        versions=dict(wanted.versions),
        code_digest=wanted.code_digest,
        numerics=Numerics(),
        keep=wanted.keep,
        crops=wanted.crops,
        command=wanted.command,
        directory=wanted.directory,
    )


def _compared(paths: RunPaths, record: RunRecord, wanted: Wanted) -> RunRecord:
    try:
        recorded = plan_from_json(record.plan)
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise RunMismatch(
            f"{paths.root}: another version of septet wrote its plan ({error}); give another run_dir"
        ) from error
    change = compare(recorded, wanted.plan)
    settled = (("checkpoint", record.keep, wanted.keep), ("crops", record.crops, wanted.crops))
    others = [f"predict.{name}: {before} → {after}" for name, before, after in settled if before != after]
    if change.lengthened and record.keep is KeptCheckpoint.swa:
        others.append("predict.checkpoint=swa begins at a share of all epochs (averaging.swa_from), which are more now")
    lines = [*change.lines, *others]
    if change.kind is ChangeKind.differs or others:
        shown = "; ".join(lines[:_SHOWN_LINES])
        more = f"; and {len(lines) - _SHOWN_LINES} more" if len(lines) > _SHOWN_LINES else ""
        raise RunMismatch(f"{paths.root}: run directory holds another plan: {shown}{more}; give another run_dir")
    shorter = dict(record.shorter)
    for ref in change.lengthened:
        folder = paths.checkpoints(ref)
        newest = folder / layout.checkpoint(newest_step(folder))
        if paths.done(ref).exists() and not (newest / layout.OPTIMIZER).exists():
            raise RunMismatch(f"{folder}: `septet clean` deleted what training on needs; give another run_dir")
        shorter[str(ref)] = [*shorter.get(str(ref), ()), recorded.stage(ref).hash]
    # Like the MLflow experiment, in which this run's runs are, the name stays that of the first launch.
    plan = replace(wanted.plan, experiment=record.experiment)
    record = replace(record, command=wanted.command, directory=wanted.directory, shorter=shorter)
    return replace(record, plan=plan_to_json(plan), plan_hash=plan.hash)


def _remove(paths: RunPaths, made: Sequence[Path]) -> None:
    """Deletes what a launch that never began has written."""
    if not made:
        for path in (paths.run_json, paths.config_yaml, paths.ledger, paths.lock):
            path.unlink(missing_ok=True)
        for folder in (paths.data, paths.code):
            shutil.rmtree(folder, ignore_errors=True)
        return
    shutil.rmtree(made[0], ignore_errors=True)
    for folder in made[1:]:
        # Another launch may have put its run beside this one.
        with contextlib.suppress(OSError):
            folder.rmdir()
