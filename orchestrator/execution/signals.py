"""Handles Ctrl-C, SIGTERM and a closed terminal: the first signal stops a launch in order, the second ends it at once.

A thread counts the signals themselves. Python runs a handler only between the main thread's calls, once for all signals
of a number that came during one call, so that a second Ctrl-C while Ray starts would be lost; and where a library has a
handler of its own for a while, the first would be lost too. The thread also wakes the main thread: a signal that
another thread received, or that came just before a call that waits, would be handled only as that call ends, and one
that came where Python can raise nothing, as in a destructor, never. Nothing is raised in Python's own code of imports
either: a lock of it would stay taken, and every other thread that imports would wait for ever.

If the process was started with SIGHUP ignored, as `nohup` does, it stays ignored.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

from workers.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# One event may arrive as two signals: both the shell and the kernel report a closed terminal, and `timeout` and service
# managers signal the process and its group. A second Ctrl-C is never taken for an echo.
_ECHO_S = 1.0
# A signal that does nothing but end the main thread's waiting, until the handler has run; not for ever, since a library
# may have a handler of its own.
_WAKING, _WAKE_AFTER_MS, _MOST_WAKINGS = signal.SIGURG, 100, 10
_IMPORTING = "<frozen importlib."
_SHOW_CURSOR = b"\x1b[?25h"


class Terminated(Stopped):
    """Is raised after SIGTERM."""

    exit_code = 143


class OutOfTime(Terminated):
    """Is raised after the end of `budget.hours`, of which SIGTERM would have been the end."""


class HungUp(Stopped):
    """Is raised after SIGHUP: the terminal was closed."""

    exit_code = 129


# Ctrl-C reaches a forked child too, which has the pipe until it becomes another program: it would count twice.
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1) and None)

_KINDS = {signal.SIGINT: Stopped, signal.SIGTERM: Terminated, signal.SIGHUP: HungUp}


class Interrupts:
    """Turns signals into `Stopped` (130), `Terminated` (143) or `HungUp` (129) while it is entered.

    Outside `deferred` the first signal raises KeyboardInterrupt. Inside, it only sets `requested`, so that the actors
    can save checkpoints first. Outside the main thread, where Python allows no handlers, it catches nothing.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._counted: signal.Signals | None = None
        self._deferring = self._owing = False
        self._before: dict[signal.Signals, Any] = {}
        self._asked = False

    @property
    def requested(self) -> bool:
        """Returns whether a signal has arrived."""
        return self._received is not None or self._counted is not None

    def error(self) -> Stopped:
        """Returns the error to raise once everything has stopped."""
        kind = _KINDS[self._received or self._counted or signal.SIGINT]
        why = "stopped because `septet stop` asked for it" if self._asked else "stopped as asked"
        return kind(f"{why}; run the same command again to resume from the last checkpoints")

    def ask(self) -> None:
        """Acts like a first SIGTERM, from another thread; does nothing after a signal."""
        if self._before and not self.requested:
            self._asked = True
            signal.pthread_kill(self._main, signal.SIGTERM)

    def __enter__(self) -> Self:
        self._main = threading.get_ident()
        self._terminals = tuple(number for number in (1, 2) if os.isatty(number))
        self._heard, self._told = os.pipe()
        os.set_blocking(self._told, False)
        self._counter = threading.Thread(target=self._count, name="septet-signals", daemon=True)
        self._counter.start()
        self._unraisable_before, sys.unraisablehook = sys.unraisablehook, self._report_unraisable
        self._install()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._wakeup_before)
        self._before.clear()
        sys.unraisablehook = self._unraisable_before
        os.write(self._told, bytes(1))
        self._counter.join()
        os.close(self._heard)
        os.close(self._told)
        if isinstance(error, KeyboardInterrupt) and self.requested:
            raise self.error() from None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Makes signals only set `requested` inside the block."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._wakeup_before = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        self._before[_WAKING] = signal.signal(_WAKING, self._wake)
        for number in _SIGNALS:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._receive)

    def _report_unraisable(self, found: Any) -> None:
        """Notes that Python could not raise the KeyboardInterrupt, as in a destructor, and prints nothing."""
        if not self.requested:
            self._unraisable_before(found)
        elif isinstance(found.exc_value, KeyboardInterrupt):
            self._owing = True

    def _interrupt(self, frame: FrameType | None) -> None:
        """Raises KeyboardInterrupt now, or as soon as the main thread has left the import machinery."""
        self._owing = frame is not None and frame.f_code.co_filename.startswith(_IMPORTING)
        if not self._owing:
            raise KeyboardInterrupt

    def _wake(self, _: int, frame: FrameType | None) -> None:
        if self._owing and not self._deferring:
            self._interrupt(frame)

    def _count(self) -> None:
        """Ends the process at the second signal, and sees to it that the first is handled; a byte 0 ends the thread."""
        first_s: float | None = None
        heard, wakings = select.poll(), 0
        heard.register(self._heard, select.POLLIN)
        while True:
            if not heard.poll(None if first_s is None else _WAKE_AFTER_MS):
                wakings += 1
                if self._owing or (self._received is None and wakings <= _MOST_WAKINGS):
                    signal.pthread_kill(self._main, _WAKING)
                continue
            number, now_s = os.read(self._heard, 1)[0], time.monotonic()
            if not number:
                return
            if number not in _SIGNALS:
                continue
            if first_s is None:
                first_s, self._counted = now_s, signal.Signals(number)
            elif number == signal.SIGINT or (number == signal.SIGTERM and now_s - first_s >= _ECHO_S):
                # No clean-up: the kernel frees the locks, and the process guard ends Ray's processes.
                if 2 in self._terminals:
                    with suppress(OSError):
                        os.write(2, _SHOW_CURSOR)
                os._exit(128 + number)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            return
        self._received = signal.Signals(number)
        self._replace_closed_terminals()
        if not self._deferring:
            self._interrupt(frame)

    def _replace_closed_terminals(self) -> None:
        """Sends output for closed terminals to /dev/null: a failed write must not prevent checkpoints."""
        for number in self._terminals:
            if not os.isatty(number):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
