"""A small process that outlives its driver by a moment and ends whatever of the driver's local Ray is left.

Ray 2.60 ends its raylet, GCS and workers about two seconds after a driver's SIGKILL, but leaves two agents for a
minute or more (measured), and its files for good. The guard waits on a pipe that closes with the driver, however it
ends. Run as a script, with the mark that the driver put into the environment of all it started, and the folder to
remove.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

MARK = "SEPTET_CLUSTER"
_GIVE_UP_S = 10.0
_PAUSE_S = 0.1


@contextmanager
def guarding(mark: str, folder: Path) -> Iterator[None]:
    """Starts the guard; when the block ends it is given its turn and waited for.

    A session of its own keeps a terminal's Ctrl-C from it. `-P` keeps this package's folder off the module path.
    """
    command = [sys.executable, "-P", str(Path(__file__).resolve()), mark, str(folder)]
    guard = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        guard.communicate()


def marked(mark: str) -> list[psutil.Process]:
    """This user's processes, other than this one, that were started with `mark` in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def end_marked(mark: str) -> None:
    """Kills the marked processes until none is left: a dying raylet may still start one."""
    give_up = time.monotonic() + _GIVE_UP_S
    while (found := marked(mark)) and time.monotonic() < give_up:
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(_PAUSE_S)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end_marked(sys.argv[1])
    shutil.rmtree(sys.argv[2], ignore_errors=True)
