"""Locks between processes that end with their holder and leave no file behind."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from workers.storage.atomic import nothing, storage_errors

_PAUSE_S = 0.2


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = nothing) -> Iterator[None]:
    """Holds the lock at `path`; calls `waiting` again and again while another process holds it."""

    def keep_waiting() -> bool:
        waiting()
        return False

    lock = _lock_at(path)
    with storage_errors(path):
        lock.acquire(cancel_check=keep_waiting)
    try:
        yield
    finally:
        # Deleted before the release. A process that then gets the deleted file's lock opens a new file.
        path.unlink(missing_ok=True)
        lock.release()


def is_locked(path: Path) -> bool:
    """Returns whether a process holds the lock at `path` now."""
    if not path.exists():
        return False
    lock = _lock_at(path)
    try:
        lock.acquire(blocking=False)
    except (Timeout, PermissionError):
        # A lock file of another user that cannot be opened may be held.
        return True
    lock.release()
    return False


def _lock_at(path: Path) -> FileLock:
    # Fails on storage without flock, because filelock's replacement there would outlive its holder.
    return FileLock(path, poll_interval=_PAUSE_S, fallback_to_soft=False)
