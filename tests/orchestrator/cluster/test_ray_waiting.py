"""Waiting on a real Ray of one node: for a node that is large enough, for CPUs that others hold, and for neither."""

from contextlib import nullcontext
from typing import Any

import pytest
import ray

from orchestrator.cluster import ray_capacity, ray_waiting
from orchestrator.cluster.interface import Unfit
from orchestrator.cluster.ray_backend import RayCluster
from orchestrator.cluster.ray_capacity import check_resources, survey_nodes
from orchestrator.cluster.ray_nodes import Node, living_nodes, memory_to_ask, slots_of
from orchestrator.cluster.ray_preflight import Preflight
from orchestrator.cluster.ray_session import available_cpus, local
from orchestrator.cluster.ray_waiting import await_room, grows
from orchestrator.config.schema import ClusterConfig
from workers.errors import ConfigError


@pytest.fixture(scope="module", autouse=True)
def _started(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        patch.setattr(ray_waiting, "LOOK_EVERY_S", 0.1)
        with local():
            yield


@pytest.mark.slow
def test_node_that_is_large_enough_is_not_waited_for(caplog):
    await_room(1, 0, 0.0)
    assert caplog.text == ""


def test_cluster_that_never_can_is_refused_and_with_a_wait_or_an_autoscaler_it_is_waited_for(monkeypatch, caplog):
    assert not grows()
    with pytest.raises(ConfigError, match="no node has more than"):
        await_room(available_cpus() + 1, 0, None)
    assert caplog.text == ""
    with pytest.raises(
        ConfigError, match=r"no node .* has room for a member \(\d+ CPUs\), for 0\.3 s \(cluster\.wait_s"
    ):
        await_room(available_cpus() + 1, 0, 0.3)
    assert "waiting for one to join; Ctrl-C ends it" in caplog.text
    seen = iter([[], [], ray_waiting.living_nodes()])
    monkeypatch.setattr(ray_waiting, "grows", lambda: True)
    monkeypatch.setattr(ray_waiting, "living_nodes", lambda: next(seen))
    await_room(1, 0, None, "packing images")
    assert "no node of the cluster has room for packing images (1 CPU); waiting" in caplog.text


def test_cpus_that_other_jobs_hold_are_waited_for(caplog):
    class Holder:
        def ready(self):
            return True

    remote: Any = ray.remote(Holder)
    holder = remote.options(num_cpus=available_cpus()).remote()
    ray.get(holder.ready.remote())
    await_room(1, 0, 0.0)
    with pytest.raises(ConfigError, match=r"other jobs take all CPUs that packing \(1 CPU\) needs, for 0\.3 s"):
        await_room(1, 0, 0.3, "packing", free=True)
    assert "waiting for one to be free" in caplog.text
    ray.kill(holder)
    await_room(1, 0, 60.0, "packing", free=True)


def test_members_that_could_start_are_asked_for_only_where_nodes_may_join():
    cluster = RayCluster(1, available_cpus() + 1, 0, nodes_change=True)
    cluster.end_idle(3)
    assert cluster._idle == []
    cluster.grows = True
    cluster.end_idle(3)
    assert len(cluster._idle) == 3
    cluster.end_idle(1)
    assert len(cluster._idle) == 1
    cluster.acquire("a")
    assert cluster.where("a") is None, "it waits for a machine"
    cluster.close()
    assert cluster._idle == []


def test_cluster_s_nodes_are_counted_and_those_that_are_too_small_are_named(monkeypatch):
    nodes = [Node(0, 0, "a", "head", "10.0.0.1"), Node(4, 1, "b", "w1", "10.0.0.2")]
    monkeypatch.setattr(ray_capacity, "attached", lambda settings: nullcontext())
    monkeypatch.setattr(ray_capacity, "living_nodes", lambda: nodes)
    monkeypatch.setattr(ray_waiting, "grows", lambda: False)
    settings = ClusterConfig(address="here", cpus_per_member=2)
    small = "too small for a member: head (10.0.0.1)"
    assert survey_nodes(settings) == (2, f"cluster at here: 2 nodes, 4 CPUs, 1 GPUs; {small}")
    assert check_resources(settings) == 2
    nodes.pop()
    assert survey_nodes(settings) == (0, f"cluster at here: 1 node, 0 CPUs, 0 GPUs; {small}; no launch can start")
    with pytest.raises(ConfigError, match="no node has more than 0 CPUs"):
        check_resources(settings)
    monkeypatch.setattr(ray_waiting, "grows", lambda: True)
    assert survey_nodes(settings)[1].endswith("a launch waits for a node to join")
    assert check_resources(settings) == 0


def test_node_without_memory_for_members_makes_them_ask_for_none(monkeypatch):
    (node,) = ray.nodes()
    without = {**node, "Resources": {"CPU": 2.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [node, without])
    nodes = living_nodes()
    assert memory_to_ask(1e9, nodes[:1]) == 1e9
    assert slots_of(nodes[1], 1, 0, 1e9) == 0, "Ray would start none there"
    assert memory_to_ask(1e9, nodes) == 0


def test_each_node_is_described_with_what_is_wrong():
    (node,) = living_nodes()
    preflight = Preflight(None)
    cluster = RayCluster(1, available_cpus(), 0, preflight=preflight)
    has = f"{node}: {node.cpus:g} CPUs, {node.gpus:g} GPUs"
    assert cluster.describe() == [has]
    preflight.leave_out(node, Unfit("it lacks kernels"))
    assert cluster.describe() == [f"{has}  left out: node {node}: it lacks kernels"]
    assert RayCluster(1, available_cpus() + 1, 0).describe() == [f"{has}  too small for a member"]
