"""Keeps the caller's signal handlers while Ray starts and ends.

Ray's C++ core installs handlers of its own while it is made, with which SIGTERM aborts the process as a crash does, and
while it ends it removes them and leaves the default: SIGTERM would kill at once. Each happens once, so both are done in
advance here, and the caller's handler is put back at once. Blocking the signal would not do: any thread of the process
may receive it, and Ray's processes would inherit the mask.
"""

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# ray::RayLog::InstallFailureSignalHandler(const char*, bool), ray::RayLog::UninstallSignalAction()
_INSTALL, _UNINSTALL = "_ZN3ray6RayLog27InstallFailureSignalHandlerEPKcb", "_ZN3ray6RayLog21UninstallSignalActionEv"
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def while_ray_starts() -> Iterator[None]:
    """Keeps the caller's handlers during `ray.init`; if a signal ends it, Ray ends in order."""
    import ray
    from ray._private.worker import global_worker

    if not _hears_signals():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    _call(_INSTALL, None, False)
    try:
        with _core_made_whole():
            yield
    except BaseException as error:
        if hasattr(global_worker, "core_worker"):
            ray.shutdown()
        # Ray's handler in Python, which knows no clean-up.
        if isinstance(error, SystemExit) and error.code == signal.SIGTERM and callable(before):
            before(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def end_ray() -> None:
    """Calls `ray.shutdown` and keeps the caller's handlers."""
    import ray

    if _hears_signals():
        _call(_UNINSTALL)
    ray.shutdown()


@contextmanager
def _core_made_whole() -> Iterator[None]:
    """Lets signals interrupt Ray's start before its core is made, and once Ray has it: one it lost crashes at exit."""
    from ray import _raylet
    from ray._private.worker import global_worker

    raylet: Any = _raylet
    worker: Any = global_worker
    plain = raylet.CoreWorker

    def make(*given: Any, **named: Any) -> Any:
        with _held():
            worker.core_worker = plain(*given, **named)
        return worker.core_worker

    raylet.CoreWorker = make
    try:
        yield
    finally:
        raylet.CoreWorker = plain


@contextmanager
def _held() -> Iterator[None]:
    """Handles signals that come during the block at its end."""
    come: list[tuple[int, FrameType | None]] = []
    handlers = {int(number): handler for number in _STOPPING if callable(handler := signal.getsignal(number))}
    for number in handlers:
        signal.signal(number, lambda *signalled: come.append(signalled))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in come:
            handlers[number](number, frame)


def _hears_signals() -> bool:
    return threading.current_thread() is threading.main_thread()


def _call(name: str, *given: Any) -> None:
    """Calls a function of Ray's core that changes signal actions, and restores that of SIGTERM."""
    from ray import _raylet

    before = signal.getsignal(signal.SIGTERM)
    function: Callable[..., None] | None = getattr(ctypes.CDLL(_raylet.__file__), name, None)
    if function is not None:
        function(*given)
        signal.signal(signal.SIGTERM, before)
