"""The fence between attempts: only the newest attempt at a member's work may change its files.

The driver raises it before each attempt: it writes a mark of the attempt's own into `members/<member>/.attempt` and
hands the attempt the same. A worker looks there before whatever it does to a name that others read. One that finds
another mark (it was stopped, or cut off from the driver, and given up) ends without a trace.

A look and the rename after it are two steps, and a worker may be stopped between them. So what is to be renamed is
made under a temporary name first, and a new attempt removes all temporary names that it finds: a rename that comes
later finds nothing to rename. A file that stays open is likewise opened first, and its name is given to another file
by the new attempt: what is written later goes into a file without a name. (docs/architecture.md, Attempts)
"""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workers.errors import StorageError, Superseded
from workers.storage import atomic, layout

# A node's cache of a shared folder may be half a minute behind the driver (NFS: acdirmin).
_SEEN_WITHIN_S = 60.0
_PAUSE_S = 0.1


@dataclass(frozen=True)
class Fence:
    """What an attempt with this `mark` may do; an empty mark belongs to nobody's attempt and may do everything."""

    path: Path
    mark: str

    def enter(self, wait_s: float = _SEEN_WITHIN_S) -> None:
        """At the attempt's beginning: waits until its mark is seen here; from then on no older one can be.

        Raises:
            Superseded: another attempt has begun.
            StorageError: there is no mark at all: the driver writes to other storage.
        """
        give_up = time.monotonic() + wait_s
        while self.mark and self._found() != self.mark and time.monotonic() < give_up:
            time.sleep(_PAUSE_S)
        if self.mark and not self._found():
            raise StorageError(
                f"{self.path}: not there on node {socket.gethostname()}: set run_dir to storage that all nodes share"
            )
        self.check()

    def check(self) -> None:
        """Raises Superseded where another attempt has begun, or the member's folder was taken away."""
        if self.mark and (found := self._found()) != self.mark:
            raise Superseded(f"{self.path.parent}: {found or 'no attempt'} has taken over from {self.mark}")

    def _found(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""


def fence_of(stage_dir: Path, mark: str) -> Fence:
    """The fence that an attempt at a stage in `stage_dir`, or at its member's predictions, is behind."""
    return Fence(stage_dir.parent / layout.ATTEMPT, mark)


def raise_fence(member_dir: Path, mark: str) -> None:
    """Makes the attempt with `mark` the only one that may write for the member. Only the driver calls this."""
    atomic.remove_leftovers(member_dir)
    atomic.write_text(member_dir / layout.ATTEMPT, mark)


Check = Callable[[], None]


def unfenced() -> None:
    """For work that no attempt competes for."""
