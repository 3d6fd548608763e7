"""Watches the head of a Ray cluster. Without it Ray hangs for a minute or more, or ends this process silently."""

import atexit
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from workers.errors import ClusterLost

# A spot machine ends two minutes (AWS) to 30 s (Azure, GCP) after its notice. A look takes 10 ms.
LOOK_EVERY_S = 1.0
_CONNECT_S = 2.0
# A client's first bytes (RFC 9113), with an empty frame of settings, and the type of the frame that a server answers.
_HTTP2_OPENING, _HTTP2_SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0", b"\4"
# With the time to leave it makes less than 30 s. A head that keeps its state elsewhere may restart within it.
_PATIENCE_S = 20.0
_LEAVE_S, _PAUSE_S = 5.0, 0.05
# Another head may be there two seconds after the end of one (measured).
_CONFIRM_S = 0.2


def _connects(address: str, opening: bytes = b"", answer: bytes = b"") -> bool | None:
    """Returns whether a server takes a connection, and whether its answer to `opening` has `answer` at byte 3.

    None if the machine is there, and says that nothing listens.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S) as connection:
            connection.sendall(opening)
            return not answer or connection.recv(4)[3:] == answer
    except ConnectionRefusedError:
        return None
    except OSError:
        return False


def await_head(address: str, wait_s: float = 10.0) -> None:
    """Waits for a cluster's head that may be starting; raises ConnectionError if none answers in `wait_s` seconds.

    A gRPC server answers HTTP/2's opening; one with TLS need only take the connection.
    """
    until = time.monotonic() + wait_s
    opening = () if os.environ.get("RAY_USE_TLS", "0") not in ("", "0") else (_HTTP2_OPENING, _HTTP2_SETTINGS)
    while not _connects(address, *opening):
        if time.monotonic() > until:
            raise ConnectionError(f"nothing at {address} answered as Ray does in {wait_s:.0f} s")
        time.sleep(LOOK_EVERY_S)


class Head:
    """Knows whether the cluster's head answers. If it is `forgetful`, its state ends with its process."""

    def __init__(
        self,
        address: str,
        connects: Callable[[str], bool | None] = _connects,
        clock: Callable[[], float] = time.monotonic,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._address, self._connects, self._clock, self._patience_s = address, connects, clock, patience_s
        self._looked_s, self._heard_s, self._num_refused = -math.inf, clock(), 0
        self.forgetful = False

    def look(self) -> bool:
        """Asks the head, at most every `pause_s`, and returns whether it answered last time.

        Raises:
            ClusterLost: it has not answered for longer than a head takes to restart; or one that is `forgetful` has
                ended, since a new one in its place would know nothing of this launch.
        """
        now = self._clock()
        if now - self._looked_s >= self.pause_s:
            self._looked_s, found = now, self._connects(self._address)
            self._num_refused = self._num_refused + 1 if found is None else 0
            if found:
                self._heard_s = now
            elif now - self._heard_s > self._patience_s or (self.forgetful and self._num_refused > 1):
                raise ClusterLost(f"the head of the Ray cluster at {self._address} is gone; run the same command again")
        return self._heard_s == self._looked_s

    @property
    def pause_s(self) -> float:
        """Returns the seconds from one look to the next, fewer if the last one met no process of a `forgetful` head."""
        return _CONFIRM_S if self.forgetful and self._num_refused else LOOK_EVERY_S

    def answers(self) -> bool:
        """Returns whether a head is there now, maybe another one."""
        return bool(self._connects(self._address))


class HeadWatch:
    """Ends its block with ClusterLost when the head is gone, also where the block waits for Ray.

    A thread looks. It interrupts the main thread as Ctrl-C does, which most calls of Ray hear; if that does not leave
    the block within seconds, or before another head answers, it ends the process itself, with the same line and exit
    code: Ray aborts in C++ when a call that has waited meets another head.
    """

    def __init__(self, address: str) -> None:
        self.head = Head(address)
        self.lost: ClusterLost | None = None
        self._over, self._ending = threading.Event(), threading.Lock()
        self._is_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._is_main:
            self._before = signal.signal(signal.SIGALRM, self._interrupt)
        threading.Thread(target=self._watch, name="septet-head", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._ending:
            self._over.set()
        if self._is_main:
            signal.signal(signal.SIGALRM, self._before or signal.SIG_DFL)
        if self.lost:
            # Ray's own exit handler would wait for the head.
            atexit.register(_leave)
            raise self.lost from error

    def _watch(self) -> None:
        while not self._over.wait(self.head.pause_s):
            try:
                self.head.look()
            except ClusterLost as lost:
                main = threading.main_thread().ident
                with self._ending:
                    # After the block the signal would end the process.
                    if self._over.is_set():
                        return
                    self.lost = lost
                    if self._is_main and main:
                        signal.pthread_kill(main, signal.SIGALRM)
                give_up = time.monotonic() + _LEAVE_S
                while time.monotonic() < give_up and not self._over.wait(_PAUSE_S) and not self.head.answers():
                    pass
                if not self._over.is_set():
                    os.write(2, f"septet: {lost}\n".encode())
                    os._exit(lost.exit_code)
                return

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self.lost and callable(self._before):
            # An alarm of the program that launches.
            self._before(number, frame)
        elif not self._over.is_set():
            raise KeyboardInterrupt


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ClusterLost.exit_code)
