"""What Septet uses of Ray beyond its documented interface, one test each: a release that moves it fails here.

When all pass under a newer Ray, raise the upper bound in pyproject.toml.
"""

import math
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayActorError, RayTaskError

from orchestrator.cluster.interface import Where
from orchestrator.cluster.ray_backend import RayCluster
from orchestrator.cluster.ray_head import Head
from orchestrator.cluster.ray_nodes import Node, cluster_errors, here, leaving_nodes, living_nodes, local_gpus
from orchestrator.cluster.ray_session import _LONGEST_TEMPORARY_ROOT, available_cpus, local
from workers.errors import StorageError

LONGEST_SOCKET = 107


@contextmanager
def private(call, user):
    """Fails with one clear line where Ray has moved `call`, which `user` relies on."""
    said = f"Ray {ray.__version__} has moved {call}, which orchestrator.cluster.{user} relies on"
    try:
        yield
    except (AssertionError, ImportError, AttributeError, LookupError, TypeError, RuntimeError) as error:
        pytest.fail(f"{said}: {type(error).__name__}: {error}", pytrace=False)


@pytest.fixture(scope="module")
def working_directory(tmp_path_factory):
    """A working directory that the driver does not import from."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def started(working_directory):
    """Ray's processes of a local Ray that lives as long as this module's tests."""
    before = set(psutil.Process().children(recursive=True))
    with private("an argument of ray.init (_temp_dir?)", "ray_session.local"), local():
        yield [child for child in psutil.Process().children(recursive=True) if child not in before]


@pytest.fixture(scope="module")
def worker(started):
    """An actor that asks for no GPU and calls functions."""

    class Worker:
        def call(self, function):
            return function()

    remote: Any = ray.remote(Worker)
    return remote.options(num_cpus=1, num_gpus=0).remote()


@pytest.fixture(scope="module")
def in_worker(worker):
    """Calls a function in the worker and returns what it returns."""
    return lambda function: ray.get(worker.call.remote(function))


@pytest.mark.slow
def test_draining_nodes_are_listed(started):
    # A node that does drain is in tests/faults/test_matrix_events.py: this Ray has one node, which would end.
    with private("ray._private.state.state.get_draining_nodes", "ray_nodes.leaving_nodes"):
        assert leaving_nodes() == frozenset()


def test_socket_of_this_machine_s_node_is_found_by_its_process(started):
    from ray._private.services import _find_address_from_flag

    with private("ray._private.services._find_address_from_flag", "ray_session._client"):
        assert any(Path(one).is_socket() for one in _find_address_from_flag("--raylet_socket_name"))


def test_actor_says_where_it_runs(in_worker):
    with private("the runtime context, or ray.util.get_node_ip_address", "ray_nodes.here"):
        (node,) = living_nodes()
        pid = in_worker(os.getpid)
        assert in_worker(here) == Where(socket.gethostname(), "127.0.0.1", pid, "CPU", node.name)


def test_actor_that_waits_for_a_machine_has_no_node_and_is_stopped_all_the_same(started):
    from ray._private.state import actors

    cluster = RayCluster(1, available_cpus() + 1, 0, nodes_change=True)
    cluster.acquire("waits")
    (waiting,) = cluster._actors.values()
    give_up = time.monotonic() + 60
    # By then Ray names a node, the one that keeps the request.
    while actors(waiting._actor_id.hex()).get("State") != "PENDING_CREATION":
        assert time.monotonic() < give_up
        time.sleep(0.05)
    assert cluster.where("waits") is None
    call = waiting.warm_up.remote(1)
    cluster.stop("waits")
    with pytest.raises(RayActorError):
        ray.get(call, timeout=60)


def test_nodes_say_their_name_and_cpus(started):
    with private("a key of ray.nodes()", "ray_nodes.living_nodes"):
        name = ray.get_runtime_context().get_node_id()
        assert living_nodes() == [Node(available_cpus(), local_gpus(), name, socket.gethostname(), "127.0.0.1")]


def test_nodes_say_what_of_them_is_free(started):
    with private("ray._private.state.available_resources_per_node", "ray_machines.RayNodes"):
        (node,) = living_nodes()
        assert 0 < available_resources_per_node()[node.name]["CPU"] <= node.cpus
        assert 0 < available_resources_per_node()[node.name]["memory"] <= node.memory < math.inf


def test_head_s_address_accepts_connections(started):
    with private("gcs_address of the runtime context", "ray_backend.RayCluster"):
        assert Head(ray.get_runtime_context().gcs_address).look()


def test_gpus_are_counted_without_starting_ray():
    import torch

    with private("ray._private.accelerators.get_accelerator_manager_for_resource", "ray_nodes.local_gpus"):
        assert local_gpus() == torch.cuda.device_count()


def test_working_directory_is_not_on_a_worker_s_path(in_worker, working_directory):
    with private("JobConfig._py_driver_sys_path", "ray_session.own_path"):
        path = in_worker(lambda: sys.path)
        assert str(working_directory) not in path, "a numpy.py that lies there would run in every member"


def test_ray_s_files_lie_in_a_folder_of_ours_with_room_for_its_sockets(started):
    with private("_temp_dir of ray.init, or the names of its sockets", "ray_session.local"):
        words = [word for process in started for word in process.cmdline()]
        (socket,) = {word.partition("=")[2] for word in words if word.startswith("--store_socket_name=")}
        folder = next(parent for parent in Path(socket).parents if parent.name.startswith("septet-ray-"))
        below_root = len(socket) - len(str(folder.parent))
        assert _LONGEST_TEMPORARY_ROOT + below_root <= LONGEST_SOCKET, f"{below_root} letters below the root"


def test_worker_is_as_nice_as_its_driver(in_worker):
    with private("RAY_worker_niceness", "ray_session.local"):
        assert in_worker(lambda: os.nice(0)) == os.nice(0)


def test_actor_without_a_gpu_sees_none(in_worker):
    with private("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "ray_session.LOCAL_ENVIRONMENT"):
        assert in_worker(lambda: os.environ.get("CUDA_VISIBLE_DEVICES")) == ""


def test_ray_listens_on_loopback_alone(in_worker, started):
    with private("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "ray_session.LOCAL_ENVIRONMENT"):
        sockets = [one for process in started if process.is_running() for one in process.net_connections("tcp")]
        listening = {one.laddr.ip.removeprefix("::ffff:") for one in sockets if one.status == psutil.CONN_LISTEN}
        assert listening, "nothing listens: the look itself is broken"
        assert all(ip_address(one).is_loopback for one in listening), f"Ray listens on {listening}"


_JOIN = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False)"


def test_ray_refuses_who_has_another_token(started):
    with private("RAY_AUTH_MODE=token", "ray_session.LOCAL_ENVIRONMENT"):
        # One attempt is enough; Ray makes twenty.
        environment = os.environ | {"RAY_AUTH_TOKEN": "0" * 64, "RAY_NUM_REDIS_GET_RETRIES": "1"}
        command = [sys.executable, "-c", _JOIN, ray.get_runtime_context().gcs_address]
        joined = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert joined.returncode != 0, "it joined"
        assert "token" in joined.stderr.lower() and "0" * 64 not in joined.stderr, joined.stderr[-400:]


_DROP = """
from orchestrator.cluster.ray_session import _QUIET, environment
with environment(_QUIET):
    import ray
from ray._private.ray_logging import stdout_deduplicator
print(stdout_deduplicator.deduplicate({"ip": "", "pid": 1, "lines": ["a worker died"], "job": "", "is_err": False}))
"""


def test_no_line_of_a_worker_reaches_the_driver_s_stdout():
    with private("RAY_DEDUP_LOGS_SKIP_REGEX", "ray_session._QUIET"):
        shown = subprocess.run([sys.executable, "-c", _DROP], capture_output=True, text=True, timeout=120)
        assert "'lines': []" in shown.stdout, shown.stdout + shown.stderr[-400:]


_SIGNALLED = """
import os, signal, sys, threading, time
import ray
from ray import _raylet
from orchestrator.cluster.ray_session import local
from orchestrator.execution.signals import Interrupts
from workers.errors import Stopped

plain, end = _raylet.CoreWorker, ray.shutdown
def send():
    os.kill(os.getpid(), signal.{number})
def make(*given, **named):
    {before_core}
    core = plain(*given, **named)
    {after_core}
    return core
def shutdown():
    {before_end}
    end()
    {after_end}
_raylet.CoreWorker, ray.shutdown = make, shutdown
try:
    with Interrupts():
        with local():
            pass
        {after_all}
        print("not stopped", flush=True)
except Stopped as error:
    print("cleaned up", flush=True)
    sys.exit(error.exit_code)
"""

_SIGNALLED_MOMENTS = "before_core", "after_core", "before_end", "after_end", "after_all"


@pytest.mark.parametrize(
    "moment",
    [*_SIGNALLED_MOMENTS[:2], *(pytest.param(each, marks=pytest.mark.slow) for each in _SIGNALLED_MOMENTS[2:])],
)
@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), pytest.param("SIGINT", 130, marks=pytest.mark.slow)])
def test_signal_while_ray_starts_and_ends_stops_in_order(moment, number, code):
    with private("its signal handlers or CoreWorker", "ray_signals"):
        program = _SIGNALLED.format(number=number, **(dict.fromkeys(_SIGNALLED_MOMENTS, "pass") | {moment: "send()"}))
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
        assert (ended.returncode, ended.stdout, ended.stderr) == (code, "cleaned up\n", "")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_echo_of_a_signal_while_ray_starts_changes_nothing(first, code):
    both = f"os.kill(os.getpid(), signal.{first}); os.kill(os.getpid(), signal.SIGTERM)"
    program = _SIGNALLED.format(number="SIGTERM", **(dict.fromkeys(_SIGNALLED_MOMENTS, "pass") | {"after_core": both}))
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "cleaned up\n", "")


def test_start_that_fails_beside_another_ray_of_the_process_leaves_that_one(started):
    with pytest.raises(RuntimeError, match="twice"), local():
        pass
    assert ray.is_initialized() and ray.nodes()


def test_exceptions_say_what_the_driver_asks_of_them():
    with private("preempted of RayActorError, cause of RayTaskError, or an exception", "ray_backend"):
        assert RayActorError().preempted is False
        cause = ValueError("x")
        assert RayTaskError("f", "traceback", cause).cause is cause
        assert all(issubclass(kind, Exception) for kind in cluster_errors())


def test_temporary_folder_without_room_is_told_before_ray_waits_for_it(monkeypatch):
    monkeypatch.setattr("os.statvfs", lambda path: SimpleNamespace(f_bavail=10, f_frsize=1000))
    with pytest.raises(StorageError, match=r"Ray needs 20,000,000 bytes, 10,000 bytes are free: .*TMPDIR"), local():
        pass
