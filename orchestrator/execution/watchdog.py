"""Finds members that are alive but make no progress.

A member makes progress when its step.txt changes: at every update, and at every heartbeat of longer work (evaluation,
prediction, writing a checkpoint, copying a store; `workers.storage.heartbeat`). The deadline is the configured one or
ten times the longest of the member's recent pauses, whichever is longer, so a slow member is never ended.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.text import duration

_TIMES_OWN_PAUSE = 10.0
_RECENT_PAUSES = 20
# The first signs take longer: imports, copying and mapping data, the first update with its set-up.
_WARM_AFTER = 3
_TIMES_COLD = 4.0
# At most this much counts between two looks: while the driver itself was suspended, it saw no progress of its members.
_LONGEST_LOOK_S = 30.0


def mark_of(step_file: Path) -> int:
    """Returns a number that changes with every sign of progress; 0 while there is no file."""
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
    """Holds the deadline of each working member; `clock` returns monotonic seconds."""

    def __init__(self, timeout_s: float, clock: Callable[[], float]) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._watched: dict[str, _Watched] = {}

    def begin(self, member: str, mark: int) -> None:
        """Starts watching a member that begins a job."""
        self._watched[member] = _Watched(mark, self._clock())

    def look(self, member: str, mark: int) -> str:
        """Records a member's `mark`; returns the reason to end the member, or an empty text."""
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
        """Returns how long the member may now make no progress."""
        watched = self._watched[member]
        if watched.num_signs < _WARM_AFTER:
            return self._timeout_s * _TIMES_COLD
        return max(self._timeout_s, _TIMES_OWN_PAUSE * max(watched.pauses))
