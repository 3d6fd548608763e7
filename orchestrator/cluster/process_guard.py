"""A small process that outlives its driver by a moment and ends whatever of the driver's local Ray is left.

Ray 2.60 ends its raylet, GCS and workers with a killed driver at once, but leaves two agents for a minute or more
(measured), and its files for good. The agents' parent is gone by then and their environment overwritten, so the guard
notes Ray's processes while they live. It waits on a pipe that closes with the driver, however that ends. A driver that
is killed while Ray is still starting leaves processes that were never noted: these are known by the mark, or by the
folder that they were told of or hold files in.

Run as a script: the driver's pid, the mark in the environment of all that the driver started for Ray, and the folder
to remove.
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
# A look costs 10 ms, which every second was 1 % of a core; Ray's agents are all there soon after its start.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 16.0
_GIVE_UP_S = 10.0
_PAUSE_S = 0.1
# What starts when the driver dies starts no more after as many looks without a trace of it.
_QUIET_LOOKS = 5


@contextmanager
def guarding(mark: str, folder: Path) -> Iterator[None]:
    """Starts the guard; when the block ends it is given its turn and waited for.

    A session of its own keeps a terminal's Ctrl-C from it. `-P` keeps this package's folder off the module path.
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
    """The driver's children that were started with `mark` in their environment, and all of theirs."""
    found: set[psutil.Process] = set()
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(driver).children():
            with contextlib.suppress(psutil.Error, OSError):
                if child.environ().get(MARK) == mark:
                    found |= {child, *child.children(recursive=True)}
    return found


def end(processes: Iterable[psutil.Process]) -> None:
    """Kills those that still live (psutil knows a pid that was given to another process) and waits for their end."""
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
        # An orphan that nobody has reaped yet is dead all the same.
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _watch(driver: int, mark: str) -> set[psutil.Process]:
    """Looks until the driver's end of the pipe closes; gives all that was ever seen and lives."""
    seen: set[psutil.Process] = set()
    pause_s = _FIRST_PAUSE_S
    while not select.select([sys.stdin], [], [], pause_s)[0]:
        before = seen
        seen = {process for process in seen if _lives(process)} | marked_descendants(driver, mark)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S) if seen == before else _FIRST_PAUSE_S
    return seen | marked_descendants(driver, mark)


def _strays(driver: int, mark: str, folder: str) -> set[psutil.Process]:
    """Whatever on this machine bears the mark, or works in the folder, and its children."""
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


def _end_strays(driver: int, mark: str, folder: str) -> None:
    """Looks and ends, until nothing more comes."""
    give_up, quiet = time.monotonic() + _GIVE_UP_S, 0
    while quiet < _QUIET_LOOKS and time.monotonic() < give_up:
        strays = _strays(driver, mark, folder)
        end(strays)
        quiet = 0 if strays else quiet + 1
        time.sleep(_PAUSE_S)


def _is_alive(pid: int) -> bool:
    try:
        return _lives(psutil.Process(pid))
    except psutil.Error:
        return False


def _guard(driver: int, mark: str, folder: str) -> None:
    end(_watch(driver, mark))
    # A driver that ended Ray itself waits for this: nothing of it can still be starting.
    if not _is_alive(driver):
        _end_strays(driver, mark, folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(int(sys.argv[1]), sys.argv[2], sys.argv[3])
