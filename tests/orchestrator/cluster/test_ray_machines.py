"""The node of a real Ray with 16 CPUs and 2 GPUs that it does not have: what it says, what runs there, and who fits."""

import os
import time
from contextlib import nullcontext
from functools import partial

import pytest
from ray._private.state import available_resources_per_node

from orchestrator.cluster import ray_session
from orchestrator.cluster.preflight import Needs
from orchestrator.cluster.ray_backend import RayCluster
from orchestrator.cluster.ray_machines import RayNodes
from orchestrator.cluster.ray_nodes import living_nodes
from orchestrator.cluster.ray_session import local
from orchestrator.config.composition import compose
from orchestrator.config.schema import ClusterConfig
from orchestrator.inputs import survey_all
from orchestrator.placement import placing
from orchestrator.placement.choice import Candidate
from orchestrator.placement.measuring import measure
from orchestrator.placement.placing import Measuring, place
from orchestrator.plan.build import make_plan
from workers.errors import ConfigError
from workers.numerics import capabilities, code_digest
from workers.protocol import Numerics

ADDRESS = "10.0.0.1:6379"
SMALL = (
    "model.width=0.05",
    "model.fc_units=16",
    "optimizer.batch_size=8",
    "ensemble=sweep",
    "sweep.seed=[0,1,2,3,4,5,6]",
)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        patch.setattr(ray_session, "available_cpus", lambda: 16)
        patch.setattr(ray_session, "_init", partial(ray_session._init, num_gpus=2))
        with local():
            yield living_nodes()[0]


@pytest.fixture
def needs(tmp_path):
    return Needs(code_digest(), tmp_path)


@pytest.mark.slow
def test_node_says_what_it_has_and_runs_what_it_is_given(node, needs, caplog):
    nodes = RayNodes(ClusterConfig(ADDRESS), needs)
    (machine,) = nodes.machines
    assert (machine.name, machine.num_cpus, machine.slots) == (str(node), 16, 16)
    assert (machine.bf16, machine.compiled_kernels) == (capabilities().bf16, capabilities().compiled_kernels)
    assert nodes.idle_gpus == "2 GPUs idle: set cluster.gpus_per_member=1"
    assert os.getenv("RAY_RAYLET_PID") is None and machine.call(os.getenv, "RAY_RAYLET_PID")
    assert machine.call(os.makedirs, "/") is None
    assert f"node {node}: nothing could be measured there (" in caplog.text


def test_task_sees_the_gpus_that_a_member_asks_for(node, needs):
    nodes = RayNodes(ClusterConfig(ADDRESS, gpus_per_member=1), needs)
    (machine,) = nodes.machines
    assert (machine.slots, nodes.idle_gpus) == (2, "")
    assert machine.call(os.getenv, "CUDA_VISIBLE_DEVICES") in ("0", "1")


def test_node_that_lacks_what_was_chosen_is_left_out(node, needs):
    nodes = RayNodes(ClusterConfig(ADDRESS), needs)
    nodes._preflight._fits[node.name]["compiled_kernels"] = False
    nodes.settle(needs)
    with pytest.raises(ConfigError, match="it lacks compiled kernels"):
        nodes.settle(Needs(code_digest(), numerics=Numerics(kernels="compiled")))


def test_plan_does_without_nodes_where_none_has_room_yet_and_a_launch_does_not(node, needs):
    asked = ClusterConfig(ADDRESS, cpus_per_member=17)
    nodes = RayNodes(asked, Needs(code_digest()))
    assert nodes.machines == []
    nodes.settle(Needs(code_digest(), numerics=Numerics()))
    with pytest.raises(ConfigError, match="asks for 17 CPUs"):
        RayNodes(asked, needs)


@pytest.mark.slow
def test_rates_are_measured_by_a_task_on_the_node(node, needs):
    config = compose(SMALL)
    stage = make_plan(config, survey_all(config)).stages[0]
    (machine,) = RayNodes(ClusterConfig(ADDRESS), needs).machines
    given = Candidate(1, 1, "fp32")
    found = machine.call(measure, stage, (given,), Numerics(), placing._log.debug)
    assert list(found) == [given] and found[given] > 0


@pytest.mark.slow
def test_seven_members_of_sixteen_cpus_take_all_but_two_and_the_memory_that_they_are_estimated_to_need(
    node, monkeypatch
):
    config = compose([*SMALL, f"cluster.address={ADDRESS}"])
    plan = make_plan(config, survey_all(config))
    monkeypatch.setattr(placing, "open_nodes", lambda settings, needs: nullcontext(RayNodes(settings, needs)))
    said = []
    placed = place(config, plan, said.append, Measuring.never)
    assert placed.numerics.threads == placed.cluster.cpus_per_member == 2
    assert said == ["2 GPUs idle: set cluster.gpus_per_member=1"]
    member_bytes = 100_000_000
    cluster = RayCluster(7, 2, 0, nodes_change=True, member_bytes=member_bytes)
    for member in plan.trained:
        cluster.acquire(member)
    give_up = time.monotonic() + 120
    while not all(map(cluster.where, plan.trained)):
        assert time.monotonic() < give_up
        time.sleep(0.1)
    # What is free is told with a delay.
    while (free := available_resources_per_node()[node.name])["CPU"] != 2:
        assert time.monotonic() < give_up, free
        time.sleep(0.1)
    assert node.memory - free["memory"] == 7 * member_bytes
    cluster.close()
