"""Ctrl-C, SIGTERM, a closed terminal: the first asks for an orderly end, the second ends the process at once.

SIGHUP stays ignored where the process was started to ignore it: that is what `nohup` is for.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from workers.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# One event may come as two signals: a shell and the kernel both tell of a closed terminal, `timeout` and service
# managers tell the process and its group. A person's second Ctrl-C is never taken for an echo.
_ECHO_S = 1.0
_SHOW_CURSOR = "\x1b[?25h"


class Terminated(Stopped):
    """Stopped by SIGTERM."""

    exit_code = 143


class HungUp(Stopped):
    """Stopped by SIGHUP: the terminal was closed."""

    exit_code = 129


_KINDS = {signal.SIGINT: Stopped, signal.SIGTERM: Terminated, signal.SIGHUP: HungUp}


class Interrupts:
    """While entered, turns the signals into `Stopped` (130), `Terminated` (143) or `HungUp` (129).

    Outside `deferred` the first signal unwinds the stack like KeyboardInterrupt; inside, it only sets `requested`, so
    that the loop in there can have the actors checkpoint first. Outside the main thread, where Python lets nobody set
    handlers, nothing is caught and `requested` stays false.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._since_s = 0.0
        self._deferring = False
        self._before: dict[signal.Signals, Any] = {}
        self._hangs_on = False
        self._asked = False
        self._terminals: tuple[int, ...] = ()

    @property
    def requested(self) -> bool:
        """Whether one of the signals has come."""
        return self._received is not None

    def error(self) -> Stopped:
        """What to raise once everything has stopped."""
        kind = _KINDS[self._received or signal.SIGINT]
        who = "stopped, for `septet stop` asked for it" if self._asked else "stopped as asked"
        return kind(f"{who}; the same command goes on from the last checkpoints")

    def ask(self) -> None:
        """Does what a first SIGTERM does, from another thread; nothing where a signal has come already."""
        if self._before and not self.requested:
            self._asked = True
            identity = threading.main_thread().ident
            assert identity is not None, "the main thread has started"
            # Not to the process: where another thread took it, whatever the main thread waits for would go on.
            signal.pthread_kill(identity, signal.SIGTERM)

    def __enter__(self) -> Self:
        self._hangs_on = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._terminals = tuple(number for number in (1, 2) if os.isatty(number))
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
            if number is signal.SIGHUP and self._hangs_on:
                continue
            handler = signal.signal(number, self._receive)
            self._before.setdefault(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self._received is not None:
            if number == signal.SIGHUP or (number == signal.SIGTERM and time.monotonic() - self._since_s < _ECHO_S):
                return
            # No clean-up: the kernel frees the locks, the process guard ends Ray's processes.
            if sys.stderr.isatty():
                sys.stderr.write(_SHOW_CURSOR)
                sys.stderr.flush()
            os._exit(128 + number)
        self._received, self._since_s = signal.Signals(number), time.monotonic()
        self._let_go_of_closed_terminals()
        if not self._deferring:
            raise KeyboardInterrupt

    def _let_go_of_closed_terminals(self) -> None:
        """Every write to a terminal that is gone is an error; none must keep the members from their checkpoints."""
        for number in self._terminals:
            if not os.isatty(number):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
