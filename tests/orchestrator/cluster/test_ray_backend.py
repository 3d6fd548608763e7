"""What fits on a cluster (pure), and real Ray: an actor's death, a stop, and nothing left of a killed driver."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from fake_stages import make_spec
from pictures import write_tree

from orchestrator.cluster import ray_capacity, ray_nodes
from orchestrator.cluster.actor import Duties
from orchestrator.cluster.interface import Halted, Lost, Trained
from orchestrator.cluster.ray_backend import RayCluster, open_cluster
from orchestrator.cluster.ray_capacity import check_resources
from orchestrator.cluster.ray_nodes import Node, count_slots, idle_gpus, memory_to_ask
from orchestrator.cluster.ray_session import available_cpus
from orchestrator.cluster.ray_shards import shard_runner
from orchestrator.config.schema import ClusterConfig, Kernels
from workers.data.sources.files import FileLoader, PlainFiles
from workers.data.sources.tree import LocalTree
from workers.data.store.preparation import prepare
from workers.errors import ConfigError, Stopped
from workers.numerics import Capabilities
from workers.protocol import StageResult
from workers.settings.dataset import DatasetSettings

GIVE_UP_S = 120.0


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "slots"),
    [
        ([Node(2, 0)], 1, 0, 2),
        ([Node(7, 0), Node(3, 0)], 2, 0, 4),
        ([Node(64, 4)], 8, 1, 4),
        ([Node(8, 1)], 1, 0.25, 4),
        ([Node(64, 3)], 1, 0.3, 9),
        ([Node(64, 2)], 1, 0.1, 20),
        ([Node(8, 0), Node(2, 2)], 2, 2, 1),
    ],
)
def test_slots_are_whole_members_node_by_node(nodes, cpus, gpus, slots):
    assert count_slots(nodes, cpus, gpus) == slots


def test_slots_are_bounded_by_the_memory_that_members_ask_for():
    large, small = Node(16, 0, memory=10e9), Node(16, 0, memory=3e9)
    assert count_slots([large, small], 1, 0, 2e9) == 5 + 1
    assert count_slots([large, small], 8, 0, 1) == 4
    assert count_slots([Node(16, 4, memory=1e9)], 1, 1) == 4, "members on GPUs ask for none"
    # Whatever the estimate, each node that fits holds a member.
    assert [memory_to_ask(estimate, [large, small]) for estimate in (2e9, 50e9, 0)] == [2e9, 3e9, 0]
    assert count_slots([large, small], 1, 0, memory_to_ask(50e9, [large, small])) == 3 + 1


@pytest.mark.parametrize(
    ("nodes", "asked", "line"),
    [
        ([Node(1, 1), Node(1, 2)], 0, "3 GPUs idle: set cluster.gpus_per_member=1"),
        ([Node(1, 1)], 0.0, "1 GPU idle: set cluster.gpus_per_member=1"),
        ([Node(1, 1)], 0.5, ""),
        ([Node(1, 0)], 0, ""),
    ],
)
def test_gpus_that_no_member_asks_for_are_idle(nodes, asked, line):
    assert idle_gpus(asked, nodes) == line


def test_idle_gpus_of_this_machine_are_counted_only_if_its_driver_lists_some(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_nodes, "GPUS", tmp_path)
    monkeypatch.setattr(ray_nodes, "local_gpus", None)
    assert ray_nodes.idle_gpus(0) == ""
    (tmp_path / "0000:01:00.0").mkdir()
    monkeypatch.setattr(ray_nodes, "local_gpus", lambda: 2)
    assert ray_nodes.idle_gpus(0).startswith("2 GPUs idle") and ray_nodes.idle_gpus(1) == ""


def test_kernels_that_this_machine_lacks_are_refused_if_asked_for(monkeypatch):
    monkeypatch.setattr(ray_capacity, "capabilities", lambda: Capabilities(bf16=True, compiled_kernels=False))
    check_resources(ClusterConfig(kernels=Kernels.plain))
    with pytest.raises(ConfigError, match=r"^cluster\.kernels=compiled: this machine lacks them"):
        check_resources(ClusterConfig(kernels=Kernels.compiled))


@pytest.mark.parametrize(("cpus", "gpus"), [(5, 0), (1, 1)])
def test_slots_of_none_that_fits_are_refused_saying_what_there_is(cpus, gpus):
    with pytest.raises(ConfigError, match=rf"asks for {cpus} CPUs and {gpus} GPUs.* 4 CPUs and 0 GPUs"):
        count_slots([Node(4, 0), Node(4, 0)], cpus, gpus)
    with pytest.raises(ConfigError, match=r"cluster\.cpus_per_member"):
        check_resources(ClusterConfig(cpus_per_member=available_cpus() + 1))


def test_actor_is_handed_on_unless_it_imported_other_code_or_its_node_is_left_out(monkeypatch):
    made, nodes = (f"actor{number}" for number in range(9)), {}
    monkeypatch.setattr(RayCluster, "_new", lambda self, **place: next(made))
    monkeypatch.setattr(RayCluster, "_node_of", lambda self, actor: nodes.get(actor, ""))
    cluster = RayCluster(2, 1, 0)

    def served(member, code=""):
        cluster.acquire(member, 1, code)
        actor = cluster._actors[member]
        cluster.release(member)
        return actor

    assert [served("a"), served("b"), served("c", "X"), served("d", "X")] == ["actor0"] * 4
    assert [served("e"), served("f", "Y")] == ["actor1"] * 2
    assert [served("g", "X"), served("h", "Y"), served("i")] == ["actor0", "actor1", "actor2"]
    nodes |= {"actor0": "n0", "actor2": "n2"}
    cluster.quarantine({"n2": "in quarantine"})
    assert served("j") == "actor3"


def _duties():
    """Nested, so that Ray sends it by value: its workers cannot import this file."""

    def make():
        def run_stage(spec, should_stop):
            if spec.member == "waits":
                (spec.stage_dir / "waits").touch()
                while not should_stop():
                    time.sleep(0.01)
                raise Stopped("stopped")
            marker = spec.stage_dir / "has died"
            if spec.member == "dies" and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return StageResult(os.getpid(), 0, "", os.environ["OMP_NUM_THREADS"], 0.0, 0.0, False)

        def predict(spec, should_stop):
            raise RuntimeError

        return Duties(run_stage, predict)

    return make


def _next(cluster):
    give_up = time.monotonic() + GIVE_UP_S
    while time.monotonic() < give_up:
        if found := cluster.poll(1.0):
            assert len(found) == 1
            return found[0]
    raise TimeoutError


@pytest.mark.slow
def test_cluster_of_real_actors_survives_a_death_and_passes_a_stop_on(tmp_path):
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    with open_cluster(ClusterConfig()) as opened:
        assert opened.num_slots == available_cpus()
        cluster = RayCluster(1, 1, 0, _duties())
        cluster.acquire("dies")
        cluster.run_stage(make_spec(tmp_path / "dies" / "train"))
        lost = _next(cluster)
        assert isinstance(lost.outcome, Lost)
        assert (tmp_path / "dies" / "train" / "has died").exists(), "the death never happened"
        cluster.discard("dies")
        cluster.acquire("dies")
        cluster.run_stage(make_spec(tmp_path / "dies" / "train"))
        trained = _next(cluster).outcome
        assert isinstance(trained, Trained)
        assert trained.result.num_updates != os.getpid()
        cluster.release("dies")
        cluster.acquire("other")
        cluster.run_stage(make_spec(tmp_path / "other" / "train"))
        handed_on = _next(cluster).outcome
        assert isinstance(handed_on, Trained)
        assert handed_on.result.num_updates == trained.result.num_updates, "another process than the one released"
        cluster.release("other")
        cluster.acquire("waits")
        cluster.run_stage(make_spec(tmp_path / "waits" / "train"))
        give_up = time.monotonic() + GIVE_UP_S
        while not (tmp_path / "waits" / "train" / "waits").exists():
            assert time.monotonic() < give_up
        # On a busy machine the stage may begin before its actor warms up, which then waits for it.
        cluster._actors["waits"].warm_up.remote(1)
        cluster.stop("waits")
        assert isinstance(_next(cluster).outcome, Halted)
        cluster.close()
    left = {child for child in psutil.Process().children(recursive=True) if child.pid not in children}
    assert not left
    assert "RAY_AUTH_TOKEN" not in os.environ


_CLUSTER = """
import os, sys
from orchestrator.config.schema import ClusterConfig
from orchestrator.cluster.ray_backend import open_cluster
with open_cluster(ClusterConfig()):
    import ray
    print(ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"], flush=True)
    sys.stdin.read()
"""


def _cluster():
    """A process with a cluster open; it prints its address and token, and ends with its stdin."""
    pipe = subprocess.PIPE
    words = [sys.executable, "-c", _CLUSTER]
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.slow
def test_driver_killed_outright_leaves_no_process_and_no_folder():
    with _cluster() as driver:
        assert driver.stdout is not None and driver.stdout.readline()
        family = psutil.Process(driver.pid).children(recursive=True)
        titles = " ".join(" ".join(process.cmdline()) for process in family)
        assert "raylet" in titles
        assert "DashboardAgent" in titles, "the very process that used to stay is not there"
        folders = {word for word in titles.split() if "septet-ray-" in word and Path(word).is_dir()}
        assert folders
        driver.kill()
    give_up = time.monotonic() + GIVE_UP_S
    while (left := [process for process in family if _lives(process)]) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not left
    assert not any(Path(folder).exists() for folder in folders)


def _lives(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@dataclass(frozen=True)
class Elsewhere:
    """A Ray cluster of another process, as a user's own would be."""

    address: str
    token: str

    def run(self, *arguments):
        """What `pack_elsewhere.py` prints of these arguments."""
        script = Path(__file__).with_name("pack_elsewhere.py")
        done = subprocess.run(
            [sys.executable, str(script), self.address, *map(str, arguments)],
            env=os.environ | {"RAY_AUTH_TOKEN": self.token},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def cluster_elsewhere():
    with _cluster() as process:
        address, token = process.stdout.readline().split()
        yield Elsewhere(address, token)
        process.communicate("")


@pytest.mark.slow
def test_shards_packed_over_a_cluster_are_those_packed_here(cluster_elsewhere, tmp_path):
    photos = write_tree(tmp_path / "photos", [f"train/{'ab'[index % 2]}/{index}.png" for index in range(120)])
    # Large enough for several shards.
    here = prepare(DatasetSettings(root=str(photos), size=256), tmp_path / "here", runner=shard_runner(ClusterConfig()))
    answer = cluster_elsewhere.run(photos, tmp_path / "there")
    there = Path(answer["store"])
    assert len(list(there.glob("train-*.images.npy"))) > 3
    assert {path.name: path.read_bytes() for path in there.glob("[!.]*")} == {
        path.name: path.read_bytes() for path in here.glob("[!.]*")
    }
    assert answer["packed"][-1] == 120


def test_store_that_a_node_does_not_see_is_a_storage_error(cluster_elsewhere, tmp_path):
    error = cluster_elsewhere.run(tmp_path / "not here")["error"]
    assert re.search(r"\): datasets\.store=.*not here is not there: mount the shared", error)


def test_cluster_is_not_joined_where_nothing_is_to_be_packed(tmp_path):
    runner = shard_runner(ClusterConfig(address="127.0.0.1:1"))
    assert not list(runner.run(FileLoader(PlainFiles(LocalTree(tmp_path))), iter(()), lambda num_images: None))
