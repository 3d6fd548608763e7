"""A head without CPUs and Ray's autoscaler with its provider of fake nodes: a launch waits, grows, and ends whole."""

import json
import socket
import subprocess
from contextlib import contextmanager

import pytest
from long_run import make_long, undisturbed_long
from machines import SMALL, START, UP_S, kill_family
from oracle import child_environment, wait_for
from run_artefacts import artefacts

from orchestrator.run.ledger import read_ledger

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
GIVE_UP_S = 900.0
OPEN = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
_EMPTY = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
_ALSO = (
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)


@contextmanager
def started_head(folder, port, *words, environment):
    """The address of a head without CPUs, for the length of the block; it leaves nothing behind."""
    head = ("--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=0", f"--temp-dir={folder / 'r'}")
    log = folder / "head.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*START, *head, *SMALL, *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd="/",
            env={**child_environment(), **OPEN, **environment},
            start_new_session=True,
        )
    try:
        wait_for(lambda: "Ray runtime started" in log.read_text(), log.read_text, UP_S)
        yield f"127.0.0.1:{port}"
    finally:
        kill_family(process)


@contextmanager
def growing(folder, most):
    """The address of a cluster of a head of no CPU to which nodes of one CPU are added on demand."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = folder / "autoscaling.json"
    worker = {"resources": {"CPU": 1, "object_store_memory": 80_000_000}, "min_workers": 0, "max_workers": most}
    config = {
        "cluster_name": "fake_multinode",
        "max_workers": most,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "ray.worker.cpu": {**worker, "node_config": {}},
        },
        "head_node_type": "ray.head.default",
        "auth": {"ssh_user": "nobody", "ssh_private_key": str(path)},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in (*_EMPTY, *_ALSO)},
    }
    path.write_text(json.dumps(config))
    environment = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    with started_head(folder, port, f"--autoscaling-config={path}", environment=environment) as address:
        yield address


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, store):
    with undisturbed_long(tmp_path_factory.mktemp("long"), store, GIVE_UP_S) as place:
        yield place


@pytest.fixture
def place(new_place):
    # Of shorter members the first node would train one after the other, before a second one is there.
    place = make_long(new_place("grows"))
    place.environment = OPEN
    return place


def test_launch_waits_for_the_first_node_and_asks_for_one_more_for_each_member(undisturbed, place):
    with growing(place.temporary, most=2) as address:
        ended = place.ended(place.start(f"cluster.address={address}"), GIVE_UP_S)
    assert ended.code == 0, ended.err
    assert "no node of the cluster has room for a member (1 CPU); waiting for one to join; Ctrl-C" in ended.err
    entries = read_ledger(place.paths.ledger).stages.values()
    assert len({one.where.node_id for entry in entries for one in entry.attempts}) == 2
    assert artefacts(place.paths) == artefacts(undisturbed.paths)


def test_wait_that_is_over_ends_the_launch_before_anything_is_written(place):
    with growing(place.temporary, most=0) as address:
        ended = place.ended(place.start(f"cluster.address={address}", "cluster.wait_s=5"), GIVE_UP_S)
    assert ended.code == 2, ended.err
    assert "for 5 s (cluster.wait_s): add a node" in ended.line
    assert not place.paths.root.exists()
