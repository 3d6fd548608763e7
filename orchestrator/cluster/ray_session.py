"""How a Ray is joined and left: a local one of this process's own, or a cluster at an address.

A local Ray listens on loopback alone, under a token of its own that lives in this process's environment, and dies with
the driver (`process_guard`).
"""

import os
import secrets
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.cluster import process_guard
from workers.errors import ClusterLost, ConfigError


class _NoMorePaths(list[str]):
    """Takes nothing in: Ray would put the working directory before all else that workers import."""

    def extend(self, _: Any) -> None:
        pass


def keep_own_path(job_config: Any) -> Any:
    """Makes of Ray's JobConfig one under which a `numpy.py` that lies in the working directory runs in no member.

    Where the driver itself imports from there (a checkout that is not installed), so do they.
    """
    if not {"", str(Path.cwd())} & set(sys.path):
        job_config._py_driver_sys_path = _NoMorePaths()
    return job_config


# A Unix socket's path has at most 107 characters; Ray's plasma socket lies up to 64 below its folder, and that 22 below
# the root (/septet-ray-12345678/r).
_LONGEST_TEMPORARY_ROOT = 21
# Nothing but specs and outcomes, a few KB each, goes through the object store.
_OBJECT_STORE_BYTES = 80 * 1024 * 1024
_NICENESS = "RAY_worker_niceness"
LOCAL_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Named for Windows and macOS, it makes any local Ray use 127.0.0.1 as its address; without it the raylet and its
    # agents listen on every interface (measured on 2.60).
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Hides all GPUs from actors that ask for none; Ray's default depends on its version.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}
# Ray prints a raylet's complaints about a dead worker to the driver's stdout, which is for results; the driver's own
# warning says it better. "." skips every line.
_QUIET = {"RAY_DEDUP_LOGS": "1", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}


def available_cpus() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _token() -> str:
    """One a process: Ray keeps the first that it is given, and a second cluster would refuse it."""
    return secrets.token_hex(32)


@contextmanager
def local() -> Iterator[None]:
    """A Ray of this process's own, for the length of the block."""
    mark = uuid.uuid4().hex
    root = tempfile.gettempdir()
    if len(root) > _LONGEST_TEMPORARY_ROOT:
        root = "/tmp"
    folder = Path(tempfile.mkdtemp(prefix="septet-ray-", dir=root))
    values = {
        **LOCAL_ENVIRONMENT,
        **_QUIET,
        # Ray gives its workers nice 15, so that a member gets next to nothing beside any other job (measured: a
        # thirtieth). Who wants to stand back starts septet under `nice`, which they inherit.
        _NICENESS: os.environ.get(_NICENESS, "0"),
        "RAY_AUTH_TOKEN": _token(),
        process_guard.MARK: mark,
    }
    with process_guard.guarding(mark, folder), environment(values):
        import ray
        from ray.job_config import JobConfig

        # "local": otherwise Ray attaches to whatever cluster it finds.
        _init(
            address="local",
            num_cpus=available_cpus(),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            # Ray opens its folder to everybody (0777, sockets and logs included): so it lies in one that is not.
            _temp_dir=str(folder / "r"),
            job_config=keep_own_path(JobConfig()),
        )
        with unless_lost(ray.shutdown):
            yield


@contextmanager
def attached(address: str) -> Iterator[None]:
    """Joined to the Ray at `address` for the length of the block; raises ConfigError where none answers."""
    with environment(_QUIET):
        import ray
        from ray.exceptions import RayError
        from ray.job_config import JobConfig

    try:
        _init(address=address, log_to_driver=False, configure_logging=False, job_config=keep_own_path(JobConfig()))
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        raise ConfigError(f"cluster.address={address}: no Ray cluster answers there ({first_line(error)})") from error
    with unless_lost(ray.shutdown):
        yield


@contextmanager
def unless_lost(close: Callable[[], None]) -> Iterator[None]:
    """Closes at the end of the block, unless by loss: what asks a dead head waits until Ray ends the process for it."""
    try:
        yield
    except ClusterLost:
        # Ray's own handler at exit does wait, and then ends the process with 1; without it, it crashes (measured).
        raise
    except BaseException:
        close()
        raise
    close()


def _init(**options: Any) -> None:
    """`ray.init`, but SIGTERM means what it meant before: Ray's own handler ends the process with exit code 15."""
    import ray

    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except SystemExit as left:
        if left.code != signal.SIGTERM or not callable(before):
            raise
        before(signal.SIGTERM, None)
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for this process and what it starts, and puts back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def first_line(error: Exception) -> str:
    """Ray's messages run to half a page; the first line says what happened."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
