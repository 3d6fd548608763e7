"""`septet stop`: asks the launch that holds a run directory to checkpoint and stop, through a file inside it.

Not by a signal: the launch may run on another host that shares the file system. The request names the holder it is for
by the token that the holder drew when it took the lock, so that one that came too late stops no later launch.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from orchestrator.execution.signals import Interrupts
from orchestrator.run import Holder, RunPaths, StageState, is_locked, read_holder, read_ledger
from workers.errors import DataError, RunInUse, StorageError
from workers.storage import write_text

_LOOK_EVERY_S = 0.5
_AGAIN = "; the same command goes on from there"


class StopEnd(StrEnum):
    """What came of a request to stop."""

    nothing_ran = "nothing_ran"
    asked = "asked"
    stopped = "stopped"
    ended = "ended"


@dataclass(frozen=True)
class Stopping:
    """How it went, and the line that says so."""

    end: StopEnd
    line: str


@contextmanager
def obeying(paths: RunPaths, holder: Holder, interrupts: Interrupts) -> Iterator[None]:
    """Inside, a request for `holder` does what SIGTERM does; it is gone when the block ends."""
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
        # Whatever is there by now is for this launch or for one before it.
        with contextlib.suppress(OSError):
            paths.stop_request.unlink(missing_ok=True)


def ask_to_stop(paths: RunPaths, timeout_s: float, sleep: Callable[[float], None] = time.sleep) -> Stopping:
    """Asks, and waits until the launch has ended; takes no lock. With `timeout_s` 0 it does not wait.

    Raises:
        DataError: there is no run directory.
        RunInUse: the launch still runs after `timeout_s`, or what holds the run directory is no launch.
    """
    if not (paths.run_json.exists() or is_locked(paths)):
        raise DataError(f"{paths.root}: no run directory there (it has no run.json); check the path")
    if not is_locked(paths):
        return Stopping(StopEnd.nothing_ran, f"no launch runs on {paths.root}: nothing to stop")
    since, holder = _changed(paths.lock), read_holder(paths)
    if holder is None or not holder.obeys:
        who = holder or "another process"
        raise RunInUse(f"{paths.root}: {who} holds it, which is no launch: wait until it ends, or end it by its pid")
    _request(paths, holder)
    if not timeout_s and _holds(paths, holder):
        return Stopping(StopEnd.asked, f"{holder} was asked to checkpoint and stop; `septet status` shows how it goes")
    give_up = time.monotonic() + timeout_s
    while _holds(paths, holder):
        if time.monotonic() >= give_up:
            raise RunInUse(
                f"{paths.root}: {holder} has not stopped within {timeout_s:g} s: it stays asked; wait longer with "
                "--timeout, or end it by its pid"
            )
        sleep(_LOOK_EVERY_S)
    _withdraw(paths, holder)
    return _ended(paths, holder, since)


def _changed(path: Path) -> float:
    """When a file changed last, by the clock of the storage that holds it; long ago where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _holds(paths: RunPaths, holder: Holder) -> bool:
    return is_locked(paths) and read_holder(paths) == holder


def _request(paths: RunPaths, holder: Holder) -> None:
    write_text(paths.stop_request, holder.token)
    if not _holds(paths, holder):
        _withdraw(paths, holder)


def _withdraw(paths: RunPaths, holder: Holder) -> None:
    """A launch that has ended meanwhile reads no request, and may have taken its run directory back."""
    if _requested(paths) == holder.token:
        with contextlib.suppress(OSError):
            paths.stop_request.unlink(missing_ok=True)
            paths.root.rmdir()


def _requested(paths: RunPaths) -> str | None:
    try:
        return paths.stop_request.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        # On shared storage any error may pass; the next look tells.
        return None


def _ended(paths: RunPaths, holder: Holder, since: float) -> Stopping:
    """What the launch that took the lock at `since` came to; an older ledger tells of the launch before it."""
    if not paths.run_json.exists():
        return Stopping(StopEnd.stopped, f"{holder} has stopped before its run had begun")
    if _changed(paths.ledger) < since:
        return Stopping(StopEnd.stopped, f"{holder} has stopped before it went on with the run, which is as it was")
    try:
        state = read_ledger(paths.ledger).state
    except StorageError:
        state = StageState.failed
    if state is StageState.done:
        return Stopping(StopEnd.ended, f"{holder} came to its end before it could stop: the run is done")
    if state is StageState.failed:
        return Stopping(StopEnd.ended, f"{holder} has ended, and the run failed; `septet status {paths.root}` says why")
    return Stopping(StopEnd.stopped, f"{holder} has stopped, its members at their checkpoints{_AGAIN}")
