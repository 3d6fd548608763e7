"""The run directory: where its files lie, who holds it, and what run.json remembers.

`RunPaths` knows where every file lies; what a worker writes inside its own folder is named there too. The lock is a
flock on a file that a run never removes: the kernel frees it with the holder's death, however that came, and the
holder's pid and host inside are only for the message.
"""

import dataclasses
import errno
import fcntl
import json
import os
import platform
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.errors import DataError, RunInUse, StorageError
from workers.protocol import Numerics
from workers.settings.training import Crops, KeptCheckpoint
from workers.storage import atomic
from workers.storage.atomic import parse_json

if TYPE_CHECKING:
    from orchestrator.plan.build import StageRef


_RECORDED = ("septet", "torch", "numpy", "pillow", "ray", "mlflow", "safetensors")


def versions() -> dict[str, str]:
    """Versions of Python, of the distributions that matter, and the processor, by name."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in _RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            # A checkout on PYTHONPATH has no distribution of its own.
            found[name] = "not installed"
    return found


_LOCK_TRIES = 5
_LOCK_PAUSE_S = 0.05
_TAKEN_BACK = "{root}: another launch has just taken back its start there; run it again"


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


@dataclass(frozen=True)
class RunRecord:
    """What run.json remembers; all values are JSON.

    `run_id` is the UUID that MLflow's tag `septet.run` carries. `plan` is `plan.to_json`'s value. `stores` and
    `data_digests` are by dataset name. `created` is in unix seconds. `keep` says which checkpoint of a stage speaks
    for it, `crops` what of an image it predicts from. `placement` says why `numerics` were chosen, `lacked` what of
    them the first machine lacked itself (`workers.numerics.missing`). `accepted` lists the changes that
    `--accept-changes` let pass, one line each. `committed` are digests of what the driver committed (`provenance`).
    """

    run_id: str
    experiment: str
    plan: Any
    plan_hash: str
    created: float
    versions: Mapping[str, str]
    code_digest: str
    numerics: Numerics
    keep: KeptCheckpoint = KeptCheckpoint.last
    data_digests: Mapping[str, str] = field(default_factory=dict)
    stores: Mapping[str, str] = field(default_factory=dict)
    mlflow: Mapping[str, Any] = field(default_factory=dict)
    accepted: tuple[str, ...] = ()
    placement: str = ""
    lacked: str = ""
    crops: Crops = Crops.ten
    committed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Holder:
    """Who holds the run directory: `token` is drawn anew by each; a launch `obeys` requests to stop."""

    pid: int
    host: str
    token: str = ""
    obeys: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def read_record(paths: RunPaths) -> RunRecord:
    """Reads run.json; raises DataError where there is none, StorageError where it is damaged."""
    try:
        with atomic.storage_errors(paths.run_json):
            value = parse_json(paths.run_json.read_text())
        value["numerics"] = Numerics(**value["numerics"])
        value["keep"] = KeptCheckpoint(value["keep"])
        # A run that began before there was a choice took ten.
        value["crops"] = Crops(value.get("crops", Crops.ten))
        value["accepted"] = tuple(value["accepted"])
        return RunRecord(**value)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{paths.root}: no run directory there (it has no run.json); check the path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{paths.run_json}: not readable as a run record ({error}); restore it") from error


def write_record(paths: RunPaths, record: RunRecord) -> None:
    """Replaces run.json."""
    atomic.write_json(paths.run_json, dataclasses.asdict(record))


@contextmanager
def lock(paths: RunPaths, *, obeys: bool = False) -> Iterator[Holder]:
    """Holds the run directory, which must exist; raises RunInUse naming the holder.

    The descriptor is close-on-exec, so no child process keeps the lock when this process dies.
    """
    try:
        with atomic.storage_errors(paths.lock):
            descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except FileNotFoundError as error:
        raise RunInUse(_TAKEN_BACK.format(root=paths.root)) from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise StorageError(f"{paths.lock}: is a link; remove it") from error
    try:
        _acquire(paths, descriptor)
        holder = Holder(os.getpid(), socket.gethostname(), uuid.uuid4().hex, obeys)
        with atomic.storage_errors(paths.lock):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(dataclasses.asdict(holder)).encode(), 0)
        # After the name is there: this walks over the whole run.
        refuse_links(paths)
        yield holder
    finally:
        os.close(descriptor)


def refuse_links(paths: RunPaths) -> None:
    """Raises StorageError where something inside the run directory is a link; the directory itself may be one.

    What is written or cleared away inside would otherwise be written or cleared away wherever a link leads.
    """
    for folder, folders, files in os.walk(paths.root):
        for name in (*folders, *files):
            if Path(folder, name).is_symlink():
                raise StorageError(
                    f"{Path(folder, name)}: is a link: a run's files lie in its own directory; put the files in its "
                    "place, or make the run directory itself the link"
                )


def _acquire(paths: RunPaths, descriptor: int) -> None:
    # `is_locked` holds a shared lock for an instant: a few tries keep a status from turning a launch away.
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink == 0:
                raise RunInUse(_TAKEN_BACK.format(root=paths.root))
            return
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)
    who = _holder(os.pread(descriptor, 4096, 0)) or "another process"
    raise RunInUse(f"{paths.root}: in use by {who}; wait until it ends, stop it, or give another run_dir")


def read_holder(paths: RunPaths) -> Holder | None:
    """Who holds the run directory, or last held it; None where that cannot be told."""
    try:
        return _holder(paths.lock.read_bytes())
    except OSError:
        return None


def _holder(content: bytes) -> Holder | None:
    try:
        return Holder(**parse_json(content))
    except (ValueError, TypeError):
        return None


def is_locked(paths: RunPaths) -> bool:
    """Whether a living process holds the run directory; changes nothing on disk."""
    try:
        descriptor = os.open(paths.lock, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
