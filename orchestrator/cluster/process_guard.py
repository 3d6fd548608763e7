"""Ends what is left of a driver's local Ray: a small process that outlives its driver by a moment.

Ray 2.60 ends its raylet, GCS and workers at once when the driver is killed, but leaves two agents for a minute or more
(measured), and its files for good. By then the agents' parent is gone and their environment is overwritten, so the
guard records Ray's processes while they live. It waits on a pipe that closes when the driver ends. If the driver is
killed while Ray is starting, some processes were never recorded: the guard finds them by the mark in their environment,
or by the folder in their arguments or open files.

Run as a script with three arguments: the driver's pid, the mark, and the folder to delete.
"""

import contextlib
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

MARK = "SEPTET_CLUSTER"
# A look takes 10 ms, which every second was 1% of a core; Ray's agents are all there soon after it starts.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 16.0
_GIVE_UP_S = 10.0
_PAUSE_S = 0.1
# After this many looks that find nothing, no more processes are expected to start.
_QUIET_LOOKS = 5


@contextmanager
def guarding(mark: str, folder: Path) -> Iterator[None]:
    """Starts the guard; at the end of the block, lets it work and waits for it.

    Its own session keeps a terminal's Ctrl-C from it. `-P` keeps this package's folder off the module path.
    """
    script = str(Path(__file__).resolve())
    guard = subprocess.Popen(
        [sys.executable, "-P", script, str(os.getpid()), mark, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.communicate()


def marked_descendants(driver: int, mark: str) -> set[psutil.Process]:
    """Returns the driver's children that have `mark` in their environment, and all descendants of these."""
    found: set[psutil.Process] = set()
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(driver).children():
            with contextlib.suppress(psutil.Error, OSError):
                if child.environ().get(MARK) == mark:
                    found |= {child, *child.children(recursive=True)}
    return found


def end(processes: Iterable[psutil.Process]) -> None:
    """Kills the processes that still live, and waits for their end; psutil notices a pid that was reused."""
    left = list(processes)
    give_up = time.monotonic() + _GIVE_UP_S
    while left and time.monotonic() < give_up:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(_PAUSE_S)
        left = [process for process in left if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        # A zombie is dead, though no parent has reaped it.
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _watch(driver: int, mark: str) -> set[psutil.Process]:
    """Looks until the driver's end of the pipe closes; returns every process seen that still lives."""
    seen: set[psutil.Process] = set()
    pause_s = _FIRST_PAUSE_S
    while not select.select([sys.stdin], [], [], pause_s)[0]:
        before = seen
        seen = {process for process in seen if _lives(process)} | marked_descendants(driver, mark)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S) if seen == before else _FIRST_PAUSE_S
    return seen | marked_descendants(driver, mark)


def _strays(driver: int, mark: str, folder: str) -> set[psutil.Process]:
    """Returns the processes on this machine that have the mark or use the folder, and their children."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in (os.getpid(), driver) and _lives(process) and _belongs(process, mark, folder):
                found |= {process, *process.children(recursive=True)}
    return found


def _belongs(process: psutil.Process, mark: str, folder: str) -> bool:
    if process.environ().get(MARK) == mark or any(folder in word for word in process.cmdline()):
        return True
    descriptors = Path(f"/proc/{process.pid}/fd")
    return descriptors.is_dir() and any(str(each.readlink()).startswith(folder) for each in descriptors.iterdir())


def _guard(driver: int, mark: str, folder: str) -> None:
    end(_watch(driver, mark))
    # If the driver lives, it has ended Ray itself and waits for this process: nothing more can start.
    if not any(each.pid == driver and _lives(each) for each in psutil.process_iter()):
        give_up, quiet = time.monotonic() + _GIVE_UP_S, 0
        while quiet < _QUIET_LOOKS and time.monotonic() < give_up:
            strays = _strays(driver, mark, folder)
            end(strays)
            quiet = 0 if strays else quiet + 1
            time.sleep(_PAUSE_S)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(int(sys.argv[1]), sys.argv[2], sys.argv[3])
