"""Keeps the caller's signal handlers while Ray starts and ends.

Ray's C++ core installs handlers of its own while it is made, with which SIGTERM aborts the process as a crash does, and
while it ends it removes them and leaves the default: SIGTERM would kill at once. Ray skips what is done already, so
both are done in advance here, and the caller's handler is put back. Blocking the signal would not do: each thread
of the process may receive it, and Ray's processes would inherit the mask.

Signals are handled in the main thread alone, so elsewhere nothing is changed.
"""

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

# ray::RayLog::InstallFailureSignalHandler(const char*, bool), ray::RayLog::UninstallSignalAction()
_INSTALL, _UNINSTALL = "_ZN3ray6RayLog27InstallFailureSignalHandlerEPKcb", "_ZN3ray6RayLog21UninstallSignalActionEv"
# An alarm tells that the head of a cluster is lost.
_INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


@contextmanager
def while_ray_starts(is_lost: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Keeps the caller's handlers during `ray.init`, and ends what it had started where it is interrupted.

    Args:
        is_lost: whether the cluster's head is gone, for which Ray's end would wait.
    """
    from ray._private import utils
    from ray._private.worker import global_worker

    if not _hears_signals():
        yield
        return
    core_before, set_handler = getattr(global_worker, "core_worker", None), utils.set_sigterm_handler
    # Ray's handler in Python ends the process without clean-up.
    utils.set_sigterm_handler = lambda _: None
    try:
        _call(_INSTALL, None, False)
        with _core_kept():
            yield
    except BaseException:
        core = getattr(global_worker, "core_worker", None)
        if core is not None and core is not core_before and not is_lost():
            end_ray()
        raise
    finally:
        utils.set_sigterm_handler = set_handler


def end_ray() -> None:
    """Calls `ray.shutdown` and keeps the caller's handlers."""
    import ray

    if _hears_signals():
        _call(_UNINSTALL)
    ray.shutdown()


@contextmanager
def _core_kept() -> Iterator[None]:
    """Lets no signal interrupt Ray's start between the making of its core and its keeping.

    Ray could not end a core that it has lost, and the process would crash as it exits.
    """
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
    handlers = {int(number): handler for number in _INTERRUPTING if callable(handler := signal.getsignal(number))}
    with ExitStack() as restored:
        for number, handler in handlers.items():
            restored.callback(signal.signal, number, handler)
            signal.signal(number, lambda *signalled: come.append(signalled))
        yield
    for number, frame in come:
        handlers[number](number, frame)


def _hears_signals() -> bool:
    return threading.current_thread() is threading.main_thread()


def _call(name: str, *given: Any) -> None:
    """Calls a function of Ray's core that changes signal actions, and restores that of SIGTERM."""
    from ray import _raylet

    before = signal.getsignal(signal.SIGTERM)
    try:
        getattr(ctypes.CDLL(_raylet.__file__), name)(*given)
    finally:
        signal.signal(signal.SIGTERM, before)
