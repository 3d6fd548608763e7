"""Starts a local Ray, or joins the cluster at an address, and leaves it again.

A local Ray listens only on loopback, with its own token in this process's environment, and ends with the driver
(`process_guard`).
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
from pathlib import Path
from typing import Any

from orchestrator.cluster import process_guard
from orchestrator.cluster.ray_nodes import await_head
from workers.data.store import require_space
from workers.errors import ClusterLost, ConfigError


class _NoMorePaths(list[str]):
    """A list that stays empty: Ray would put the working directory before all other import paths of workers."""

    def extend(self, _: Any) -> None:
        pass


def own_path() -> Any:
    """Returns a JobConfig of Ray with which members do not import, say, a `numpy.py` in the working directory.

    If the driver imports from there (a checkout that is not installed), members do too.
    """
    from ray.job_config import JobConfig

    job_config = JobConfig()
    if not {"", str(Path.cwd())} & set(sys.path):
        job_config._py_driver_sys_path = _NoMorePaths()
    return job_config


# A Unix socket's path has at most 107 characters. Ray's plasma socket is up to 64 below its folder, and that is 22
# below the root (/septet-ray-12345678/r).
_LONGEST_TEMPORARY_ROOT = 21
# Logs, sockets and session files. Without room for them Ray waits 37 s and then says that a node timed out.
_LEAST_TEMPORARY_BYTES = 20_000_000
# Only specs and outcomes, a few KB each, go through the object store.
_OBJECT_STORE_BYTES = 80 * 1024 * 1024
# One for each process: Ray keeps the first it gets, and would refuse a second cluster with another.
_TOKEN = secrets.token_hex(32)
_NICENESS = "RAY_worker_niceness"
LOCAL_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Despite its name it makes any local Ray use the address 127.0.0.1; without it the raylet and its agents listen on
    # every interface (measured on 2.60).
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Hides all GPUs from actors that ask for none; Ray's default depends on its version.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}
# Ray prints a raylet's messages about a dead worker to the driver's stdout, which is for results; the driver's own
# warning is clearer. "." skips every line.
_QUIET = {"RAY_DEDUP_LOGS": "1", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}


def available_cpus() -> int:
    """Returns the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def local() -> Iterator[None]:
    """Starts a local Ray for the length of the block."""
    mark = uuid.uuid4().hex
    root = tempfile.gettempdir()
    if len(root) > _LONGEST_TEMPORARY_ROOT:
        root = "/tmp"
    require_space(Path(root), _LEAST_TEMPORARY_BYTES, "Ray", "set TMPDIR to another disk")
    folder = Path(tempfile.mkdtemp(prefix="septet-ray-", dir=root))
    values = {
        **LOCAL_ENVIRONMENT,
        **_QUIET,
        # Ray gives its workers nice 15, so that members get almost nothing beside any other job (measured: a
        # thirtieth). To yield to other jobs, start septet under `nice`, which they inherit.
        _NICENESS: os.environ.get(_NICENESS, "0"),
        "RAY_AUTH_TOKEN": _TOKEN,
        process_guard.MARK: mark,
    }
    with process_guard.guarding(mark, folder), environment(values):
        import ray

        # Without "local" Ray joins any cluster it finds.
        _init(
            address="local",
            num_cpus=available_cpus(),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            # Ray makes its folder world-writable (0777, with sockets and logs), so its parent is private.
            _temp_dir=str(folder / "r"),
        )
        with unless_lost(ray.shutdown):
            yield


@contextmanager
def attached(address: str) -> Iterator[None]:
    """Joins the Ray at `address` for the length of the block; raises ConfigError if none answers."""
    with environment(_QUIET):
        import ray
        from ray._private.services import canonicalize_bootstrap_address_or_die
        from ray.exceptions import RayError

    try:
        # Ray itself would wait 14 minutes for a head that is not there, deaf to Ctrl-C.
        await_head(canonicalize_bootstrap_address_or_die(address))
        _init(address=address)
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        raise ConfigError(f"cluster.address={address}: no Ray cluster answers there ({first_line(error)})") from error
    with unless_lost(ray.shutdown):
        yield


@contextmanager
def unless_lost(close: Callable[[], None]) -> Iterator[None]:
    """Closes at the end of the block, except after ClusterLost: a call to a dead head hangs until Ray exits."""
    try:
        yield
    except ClusterLost:
        # Ray's exit handler does hang, and then ends the process with 1; without it the process crashes (measured).
        raise
    except BaseException:
        close()
        raise
    close()


def _init(**options: Any) -> None:
    """Calls `ray.init` and keeps the SIGTERM handler: Ray's own ends the process with exit code 15."""
    import ray

    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, configure_logging=False, job_config=own_path(), **options)
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
    """Sets environment variables for this process and its children, and restores them at the end of the block."""
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
    """Returns the first line of Ray's message, which says what happened; the rest is half a page."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
