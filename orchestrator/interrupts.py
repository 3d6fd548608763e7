"""Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends the process at once."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from workers.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h"


class Terminated(Stopped):
    """Stopped by SIGTERM."""

    exit_code = 143


class Interrupts:
    """While entered, turns the two signals into `Stopped` (130) or `Terminated` (143).

    Outside `deferred` the first signal unwinds the stack like KeyboardInterrupt; inside, it only sets `requested`, so
    that the loop in there can have the actors checkpoint first. Outside the main thread, where Python lets nobody set
    handlers, nothing is caught and `requested` stays false.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._deferring = False
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether one of the signals has come."""
        return self._received is not None

    def error(self) -> Stopped:
        """What to raise once everything has stopped."""
        kind = Terminated if self._received is signal.SIGTERM else Stopped
        return kind("stopped as asked; the same command goes on from the last checkpoints")

    def __enter__(self) -> Self:
        self._install()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        if isinstance(error, KeyboardInterrupt) and self.requested:
            raise self.error() from None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, signals only set `requested`."""
        # Ray's start puts handlers of its own in place: take the signals back.
        self._install()
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            handler = signal.signal(number, self._receive)
            self._before.setdefault(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self._received is not None:
            # No clean-up: the kernel frees the locks, the process guard ends Ray's processes.
            if sys.stderr.isatty():
                sys.stderr.write(_SHOW_CURSOR)
                sys.stderr.flush()
            os._exit(128 + number)
        self._received = signal.Signals(number)
        if not self._deferring:
            raise KeyboardInterrupt
