"""Locks a run directory: a flock on a file that the run never deletes."""

import dataclasses
import errno
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.run.paths import RunPaths
from workers.errors import RunInUse, StorageError
from workers.storage import parse_json, storage_errors

_LOCK_TRIES = 5
_LOCK_PAUSE_S = 0.05
_TAKEN_BACK = "{root}: another launch failed to start there and deleted the folder; run the same command again"


@dataclass(frozen=True)
class Holder:
    """The process that holds a run directory; `token` is random, and a launch `obeys` requests to stop."""

    pid: int
    host: str
    token: str = ""
    obeys: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextmanager
def lock(paths: RunPaths, *, obeys: bool = False) -> Iterator[Holder]:
    """Locks the run directory, which must exist, for the length of the block.

    The descriptor is close-on-exec, so no child process keeps the lock when this process dies.

    Raises:
        RunInUse: another process holds it, or deleted it meanwhile.
        StorageError: the lock or another file inside is a link.
    """
    try:
        with storage_errors(paths.lock):
            descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except FileNotFoundError as error:
        raise RunInUse(_TAKEN_BACK.format(root=paths.root)) from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise StorageError(f"{paths.lock}: is a link; delete it") from error
    try:
        _acquire(paths, descriptor)
        holder = Holder(os.getpid(), socket.gethostname(), uuid.uuid4().hex, obeys)
        with storage_errors(paths.lock):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(dataclasses.asdict(holder)).encode(), 0)
        # After the holder is written, since this walks the whole run.
        refuse_links(paths)
        yield holder
    finally:
        os.close(descriptor)


def refuse_links(paths: RunPaths) -> None:
    """Raises StorageError if anything inside the run directory is a link; the directory itself may be one.

    Otherwise the run would write or delete files wherever a link leads.
    """
    for folder, folders, files in os.walk(paths.root):
        for name in (*folders, *files):
            if Path(folder, name).is_symlink():
                raise StorageError(
                    f"{Path(folder, name)}: is a link, but a run's files must lie in its own directory; replace it by "
                    "the files, or make the run directory itself the link"
                )


def _acquire(paths: RunPaths, descriptor: int) -> None:
    # `is_locked` holds a shared lock for an instant; several tries keep a status from refusing a launch.
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
    """Returns the process that holds the run directory or held it last, or None if that is unknown."""
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
    """Returns whether a live process holds the run directory; changes nothing on disk."""
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
