"""The fence between attempts: only the newest attempt at a member's work may change its files.

Before each attempt the driver writes the attempt's mark into `members/<member>/.attempt` and passes it to the attempt.
A worker reads that file before it creates, replaces or deletes a name that others read. If the mark is another (the
worker was suspended or out of reach, and was given up), the worker ends and leaves no trace.

A worker may be suspended between this check and its rename. So it writes under a temporary name, and a new attempt
deletes all temporary names that it finds: the late rename then fails. A file that stays open is opened before the
check, and the new attempt gives its name to another file: late writes go into a file without a name.
(docs/architecture.md, Attempts)
"""

import socket
import time
from dataclasses import dataclass
from pathlib import Path

from workers.errors import StorageError, Superseded
from workers.storage import atomic, layout

# A node's cache of a shared folder may lag half a minute behind the driver (NFS: acdirmin).
_SEEN_WITHIN_S = 60.0
_PAUSE_S = 0.1


@dataclass(frozen=True)
class Fence:
    """The permission of the attempt with this `mark` to write; an empty mark always may."""

    path: Path
    mark: str

    def enter(self, wait_s: float = _SEEN_WITHIN_S) -> None:
        """Waits, at the start of an attempt, until this node sees its mark; older marks cannot be seen afterwards.

        Raises:
            Superseded: another attempt has begun.
            StorageError: there is no mark, because the driver writes to other storage.
        """
        give_up = time.monotonic() + wait_s
        while self.mark and self._found() != self.mark and time.monotonic() < give_up:
            time.sleep(_PAUSE_S)
        if self.mark and not self._found():
            raise StorageError(
                f"{self.path}: missing on node {socket.gethostname()}: set run_dir to storage that all nodes share"
            )
        self.check()

    def check(self) -> None:
        """Raises Superseded if another attempt has begun or the member's folder was deleted."""
        if self.mark and (found := self._found()) != self.mark:
            raise Superseded(f"{self.path.parent}: {found or 'no attempt'} has taken over from {self.mark}")

    def _found(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""


def fence_of(stage_dir: Path, mark: str) -> Fence:
    """Returns the fence for an attempt at the stage in `stage_dir` or at its member's predictions."""
    return Fence(stage_dir.parent / layout.ATTEMPT, mark)


def raise_fence(member_dir: Path, mark: str) -> None:
    """Lets only the attempt with `mark` write for the member; the driver calls this."""
    atomic.remove_leftovers(member_dir)
    atomic.write_text(member_dir / layout.ATTEMPT, mark)
