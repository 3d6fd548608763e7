"""The fence between attempts: only the newest attempt at a member's work may change its files.

The driver raises it before each attempt: it writes a mark of the attempt's own into `members/<member>/.attempt` and
hands the attempt the same. A worker looks there before whatever it does to a name that others read. One that finds
another mark (it was stopped, or cut off from the driver, and given up) ends without a trace.

A look and the rename after it are two steps, and a worker may be stopped between them. So what is to be renamed is
made under a temporary name first, and a new attempt removes all temporary names that it finds: a rename that comes
later finds nothing to rename. A file that stays open is likewise opened first, and its name is given to another file
by the new attempt: what is written later goes into a file without a name. (docs/architecture.md, Attempts)
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workers import atomic
from workers.errors import Superseded

FILE = ".attempt"


@dataclass(frozen=True)
class Fence:
    """What an attempt with this `mark` may do; an empty mark belongs to nobody's attempt and may do everything."""

    path: Path
    mark: str

    def check(self) -> None:
        """Raises Superseded where another attempt has begun, or the member's folder was taken away."""
        if not self.mark:
            return
        try:
            found = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            found = "no attempt"
        if found != self.mark:
            raise Superseded(f"{self.path.parent}: {found} has taken over from {self.mark}")


def fence_of(stage_dir: Path, mark: str) -> Fence:
    """The fence that an attempt at a stage in `stage_dir`, or at its member's predictions, is behind."""
    return Fence(stage_dir.parent / FILE, mark)


def raise_fence(member_dir: Path, mark: str) -> None:
    """Makes the attempt with `mark` the only one that may write for the member. Only the driver calls this."""
    atomic.remove_leftovers(member_dir)
    atomic.write_text(member_dir / FILE, mark)


Check = Callable[[], None]


def unfenced() -> None:
    """For work that no attempt competes for."""
