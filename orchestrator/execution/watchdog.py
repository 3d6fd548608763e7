"""When a member that is alive but makes no progress has been waited for long enough.

Progress is that its step.txt changes: at every update, and at every beat of what takes long without one (evaluation,
prediction, a checkpoint being written, a store being copied; `workers.storage.heartbeat`). The deadline is the
configured one, or ten times the longest of the member's own recent pauses where that is more: a straggler moves, and is
never ended.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.text import duration

_TIMES_OWN_PAUSE = 10.0
_RECENT_PAUSES = 20
# Until a few signs have been seen: importing, copying and mapping data, the first update with all it sets up.
_WARM_AFTER = 3
_TIMES_COLD = 4.0
# What counts of one look after another. A driver that was itself suspended, with its members or without them, has seen
# nothing of that time and must not take it for theirs.
_LONGEST_LOOK_S = 30.0


def mark_of(step_file: Path) -> int:
    """What changes with every sign of progress; 0 while there is no file."""
    try:
        return step_file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@dataclass
class _Watched:
    mark: int
    seen_s: float
    quiet_s: float = 0.0
    num_signs: int = 0
    pauses: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_PAUSES))


class Deadlines:
    """Of each member at work; `clock` gives monotonic seconds."""

    def __init__(self, timeout_s: float, clock: Callable[[], float]) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._watched: dict[str, _Watched] = {}

    def begin(self, member: str, mark: int) -> None:
        """The member begins a piece of work."""
        self._watched[member] = _Watched(mark, self._clock())

    def look(self, member: str, mark: int) -> str:
        """Takes note of a member's `mark`; says why it is to be ended, or nothing while it may go on."""
        now, watched = self._clock(), self._watched[member]
        watched.quiet_s += min(now - watched.seen_s, _LONGEST_LOOK_S)
        watched.seen_s = now
        if mark != watched.mark:
            watched.pauses.append(watched.quiet_s)
            watched.mark, watched.quiet_s = mark, 0.0
            watched.num_signs += 1
        allowed_s = self.allowed_s(member)
        if watched.quiet_s <= allowed_s:
            return ""
        return (
            f"no progress for {duration(watched.quiet_s)}, more than the {duration(allowed_s)} allowed "
            "(cluster.progress_timeout_s): its process was ended"
        )

    def allowed_s(self, member: str) -> float:
        """How long the member may now go without a sign of progress."""
        watched = self._watched[member]
        if watched.num_signs < _WARM_AFTER:
            return self._timeout_s * _TIMES_COLD
        return max(self._timeout_s, _TIMES_OWN_PAUSE * max(watched.pauses))
