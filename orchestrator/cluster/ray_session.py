"""Starts a local Ray, or joins the cluster at an address, and leaves it again.

A local Ray listens only on loopback, with its own token in this process's environment, and ends with the driver
(`process_guard`).
"""

import os
import re
import secrets
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from orchestrator.cluster import process_guard
from orchestrator.cluster.ray_head import HeadWatch, await_head
from orchestrator.cluster.ray_signals import end_ray, while_ray_starts
from workers.data.store import require_space
from workers.errors import ClusterLost, ConfigError

if TYPE_CHECKING:
    from orchestrator.config import ClusterConfig


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
_KV_S, _NODE_STARTS_S = 5.0, 5.0
_NOT_A_NODE = "No node info found"
_SUBMIT = "`ray job submit --address=http://HEAD:8265 -- septet launch … cluster.address=auto`"
# One for each process: Ray keeps the first it gets, and would refuse a second cluster with another.
_TOKEN = secrets.token_hex(32)
_NICENESS = "RAY_worker_niceness"
# Members train on threads of Ray's. glibc would give each a heap of its own, in pieces of 64 MB, and map what is larger
# at every step, whatever `workers.numerics` says of freed memory.
_ONE_HEAP = {"MALLOC_ARENA_MAX": "1"}
LOCAL_ENVIRONMENT = {
    **_ONE_HEAP,
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


def load(settings: "ClusterConfig") -> None:
    """Loads Ray, which reads its environment then, and what it loads when it first sends something."""
    with environment({**_QUIET, **(LOCAL_ENVIRONMENT if settings.address is None else {})}):
        from ray.util import serialization_addons
    names = ("_register_cloudpickle_serializer", "_register_cloudpickle_reducer")
    apply: Callable[..., None] = serialization_addons.apply
    apply(SimpleNamespace(**dict.fromkeys(names, lambda *_, **__: None)))


@contextmanager
def local() -> Iterator[HeadWatch | None]:
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
        with _lean(mark):
            # Without "local" Ray joins any cluster it finds.
            _init(
                address="local",
                num_cpus=available_cpus(),
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                # Ray makes its folder world-writable (0777, with sockets and logs), so its parent is private.
                _temp_dir=str(folder / "r"),
            )
        with unless_lost(end_ray):
            yield None


@contextmanager
def _lean(mark: str) -> Iterator[None]:
    """Makes `ray.init` start a head without dashboard (it would wait for it), autoscaler, reader of logs and pages."""
    from ray._private import node, utils

    class Lean(node.Node):
        def _skip(self, **_: Any) -> None:
            self._webui_url = ""

        start_api_server = start_monitor = start_log_monitor = _skip

        def kill_all_processes(self, *_: Any, **__: Any) -> None:
            # All at once, also while Python ends: Ray asks one after the other to end, and waits up to 1 s for each.
            process_guard.end(process_guard.marked_descendants(os.getpid(), mark))

    whole: Any = node.Node, utils.get_dashboard_dependency_error
    node.Node, utils.get_dashboard_dependency_error = Lean, lambda: ImportError()  # type: ignore[misc]
    try:
        yield
    finally:
        node.Node, utils.get_dashboard_dependency_error = whole  # type: ignore[misc]


@contextmanager
def attached(settings: "ClusterConfig") -> Iterator[HeadWatch]:
    """Joins the Ray at `settings.address` for the length of the block.

    Raises:
        ConfigError: the address is none that a node joins by, nothing answers there, the token is not the cluster's, or
            this machine is no node of it.
        ClusterLost: the head is gone before the end of the block.
    """
    with environment(_QUIET):
        from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE
        from ray.exceptions import RayError

    where, address = _find(str(settings.address))
    stored = _storage(where, address)
    with HeadWatch(address) as watch:
        watch.head.forgetful = stored == b"memory"
        try:
            with environment({RAY_RUNTIME_ENV_IGNORE_GITIGNORE: "1"}):
                environments = {"env_vars": _ONE_HEAP, **(shipped() if settings.ship_code else {})}
                _init(watch, address=address, runtime_env=environments)
        except (ConnectionError, RayError, RuntimeError, ValueError) as error:
            if _NOT_A_NODE in str(error):
                raise _no_node(where, address) from error
            raise ConfigError(f"{where}: no Ray cluster answers there ({first_line(error)})") from error
        with unless_lost(end_ray, watch):
            yield watch


def shipped() -> dict[str, Any]:
    """Returns the runtime environment with which Ray sends each node the packages of this process.

    They are folders and not a wheel, with which Ray would install torch too. Compiled kernels lie in them.
    """
    found = [find_spec(name) for name in ("orchestrator", "workers", "conf", "septet")]
    files = [Path(spec.origin) for spec in found if spec and spec.origin]
    modules = [str(file.parent if file.name == "__init__.py" else file) for file in files]
    return {"py_modules": modules, "excludes": ["__pycache__"]}


def _find(given: str) -> tuple[str, str]:
    """Returns how messages name the address, and host and port of the head that answers there."""
    from ray._private.services import canonicalize_bootstrap_address_or_die

    named = os.environ.get("RAY_ADDRESS", "") if given == "auto" else ""
    where, address = f"cluster.address={given}{f' (RAY_ADDRESS={named})' if named else ''}", named or given
    if "://" in address:
        raise ConfigError(
            f"{where}: a launch is no client from outside: on a node of the cluster give the head's HOST:6379, or "
            f"auto; from elsewhere submit it: {_SUBMIT}"
        )
    if not re.fullmatch(r"auto|\S+:\d+", address):
        # Ray would join any cluster that it finds here for an empty address, and for `local`.
        raise ConfigError(
            f"{where}: give the head's HOST:6379, or auto; or leave it out, for a Ray on this machine alone"
        )
    try:
        # Ray itself would wait 14 minutes for a head that is not there, deaf to Ctrl-C.
        found = canonicalize_bootstrap_address_or_die(address)
        await_head(found)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"{where}: no Ray cluster answers there ({first_line(error)})") from error
    return where, found


def _storage(where: str, address: str) -> bytes | None:
    """Returns where the head keeps its state; raises ConfigError without its token, or where no node runs here."""
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._private.services import _find_address_from_flag
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RayError

    try:
        # Ray tries twenty times, and says half a page.
        ensure_token_if_auth_enabled(None, create_token_if_missing=False)
        client = GcsClient(address=address)
        # With another than memory, such as Redis, it survives a restart.
        stored: bytes | None = client.internal_kv_get(
            b"extra_usage_tag_gcs_storage", namespace=b"usage_stats", timeout=_KV_S
        )
    except AuthenticationError as error:
        raise ConfigError(
            f"{where}: the cluster refuses this token, or the lack of one: set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN_PATH to a file with the cluster's token (or RAY_AUTH_TOKEN to the token)"
        ) from error
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{where}: no Ray cluster answers there ({first_line(error)})") from error
    # Ray waits a minute for one. It aborts where it sees one whose folder it does not see, as in a container here.
    give_up = time.monotonic() + _NODE_STARTS_S
    while not any(Path(one).is_socket() for one in _find_address_from_flag("--raylet_socket_name")):
        if time.monotonic() > give_up:
            raise _no_node(where, address)
        time.sleep(1)
    return stored


def _no_node(where: str, address: str) -> ConfigError:
    return ConfigError(
        f"{where}: this machine is no node of that cluster: make it one (`ray start --address={address}`), or submit "
        f"from here: {_SUBMIT}"
    )


@contextmanager
def unless_lost(close: Callable[[], None], watch: HeadWatch | None = None) -> Iterator[None]:
    """Closes at the end of the block, except after ClusterLost: a call to a dead head hangs until Ray exits."""
    try:
        yield
    except BaseException as error:
        # Ray's exit handler does hang, and then ends the process with 1; without it the process crashes (measured).
        if not isinstance(error, ClusterLost) and not (watch and watch.lost):
            close()
        raise
    close()


def _init(watch: HeadWatch | None = None, **options: Any) -> None:
    import ray

    with while_ray_starts(lambda: watch is not None and watch.lost is not None):
        ray.init(log_to_driver=False, configure_logging=False, job_config=own_path(), **options)


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
