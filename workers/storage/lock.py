"""One process at a time: a lock that leaves no file behind and dies with its holder."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from workers.storage.atomic import storage_errors

_PAUSE_S = 0.2


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds the lock at `path`, for which it waits as long as another process has it; `waiting` is called meanwhile."""

    def keep_waiting() -> bool:
        if waiting is not None:
            waiting()
        return False

    lock = _lock_at(path)
    with storage_errors(path):
        lock.acquire(cancel_check=keep_waiting)
    try:
        yield
    finally:
        # Before the release: whoever gets the lock of a file that has lost its name opens the next one.
        path.unlink(missing_ok=True)
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at `path` right now."""
    if not path.exists():
        return False
    lock = _lock_at(path)
    try:
        lock.acquire(blocking=False)
    except (Timeout, PermissionError):
        # One of another user may be held for all we know.
        return True
    lock.release()
    return False


def _lock_at(path: Path) -> FileLock:
    # Storage without flock is refused: what filelock would use there outlives its holder.
    return FileLock(path, poll_interval=_PAUSE_S, fallback_to_soft=False)
