"""Ends a launch of which no member has had a machine for too long."""

import logging
from collections.abc import Callable

from workers.errors import ConfigError

# An actor's process takes so long to start where there is room for it.
_STARTS_S = 15.0
_log = logging.getLogger(__name__)


class MachineWait:
    """Holds since when no member has a machine; `clock` returns monotonic seconds, and `wait_s` None waits for ever."""

    def __init__(self, wait_s: float | None, clock: Callable[[], float]) -> None:
        self._wait_s, self._clock = wait_s, clock
        self._since_s: float | None = None
        self._said = False

    def look(self, *, waits: bool) -> None:
        """Notes whether there are members and none has a machine, and says so once; raises ConfigError in the end."""
        now = self._clock()
        if not waits:
            self._since_s, self._said = None, False
            return
        self._since_s = now if self._since_s is None else self._since_s
        waited_s = now - self._since_s - _STARTS_S
        if self._wait_s is not None and waited_s > self._wait_s:
            raise ConfigError(
                f"no member has had a machine for {self._wait_s:g} s (cluster.wait_s); checkpoints are saved: run the "
                "same command again when nodes are free"
            )
        if waited_s > 0 and not self._said:
            self._said = True
            _log.warning("no node has room for a member now: waiting for a machine; Ctrl-C ends it")
