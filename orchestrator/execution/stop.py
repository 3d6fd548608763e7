"""Implements `septet stop`: a file in the run directory asks its launch to checkpoint and stop.

It is not a signal, since the launch may run on another host that shares the file system. The request holds the random
token of the launch that has the lock, so a late request stops no later launch.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.execution.signals import Interrupts
from orchestrator.run import Holder, RunPaths, State, is_locked, read_holder, read_ledger
from workers.errors import DataError, RunInUse, StorageError
from workers.storage import write_text

_LOOK_EVERY_S = 0.5


@contextmanager
def obeying(paths: RunPaths, holder: Holder, interrupts: Interrupts) -> Iterator[None]:
    """Makes a request for `holder` act like SIGTERM inside the block, and deletes it at the end."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_EVERY_S):
            if _requested(paths) == holder.token:
                interrupts.ask()
                return

    thread = threading.Thread(target=look, name="septet-stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        # Any request that is there now is for this launch or for an earlier one.
        with contextlib.suppress(OSError):
            paths.stop_request.unlink(missing_ok=True)


def ask_to_stop(paths: RunPaths, timeout_s: float) -> str:
    """Asks the launch to stop, waits until it has ended, and returns a line about it; it takes no lock.

    With `timeout_s` 0 it does not wait.

    Raises:
        DataError: there is no run directory.
        RunInUse: the launch still runs after `timeout_s`, or the process that holds the run directory is no launch.
    """
    if not (paths.run_json.exists() or is_locked(paths)):
        raise DataError(f"{paths.root}: no run directory there (it has no run.json); check the path")
    if not is_locked(paths):
        return f"no launch runs on {paths.root}: there is nothing to stop"
    since, holder = _changed(paths.lock), read_holder(paths)
    if holder is None or not holder.obeys:
        who = holder or "another process"
        raise RunInUse(f"{paths.root}: {who} holds it and is no launch; wait until it ends, or end it by its pid")
    write_text(paths.stop_request, holder.token)
    if not timeout_s and _holds(paths, holder):
        return f"{holder} was asked to checkpoint and stop; `septet status {paths.root}` shows its state"
    give_up = time.monotonic() + timeout_s
    while _holds(paths, holder):
        if time.monotonic() >= give_up:
            raise RunInUse(
                f"{paths.root}: {holder} has not stopped within {timeout_s:g} s, and the request stays; wait longer "
                "with --timeout, or end it by its pid"
            )
        time.sleep(_LOOK_EVERY_S)
    if _requested(paths) == holder.token:
        # The launch has ended, and may have deleted its run directory otherwise.
        with contextlib.suppress(OSError):
            paths.stop_request.unlink(missing_ok=True)
            paths.root.rmdir()
    return _ended(paths, holder, since)


def _changed(path: Path) -> float:
    """Returns when a file last changed, by the clock of its storage; 0 if there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _holds(paths: RunPaths, holder: Holder) -> bool:
    return is_locked(paths) and read_holder(paths) == holder


def _requested(paths: RunPaths) -> str | None:
    try:
        return paths.stop_request.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        # On shared storage any error may be transient; it is read again.
        return None


def _ended(paths: RunPaths, holder: Holder, since: float) -> str:
    """Returns how the launch that took the lock at `since` ended; an older ledger is of an earlier launch."""
    if not paths.run_json.exists():
        return f"{holder} has stopped before its run began"
    if _changed(paths.ledger) < since:
        return f"{holder} has stopped before it resumed the run, which is unchanged"
    try:
        state = read_ledger(paths.ledger).state
    except StorageError:
        state = State.failed
    if state is State.done:
        return f"{holder} finished before it could stop: the run is done"
    if state is State.failed:
        return f"{holder} has ended, and the run failed; `septet status {paths.root}` shows why"
    return f"{holder} has stopped after saving checkpoints; run the same command again to resume"
