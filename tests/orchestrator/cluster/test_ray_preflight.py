"""A look at the node of a real Ray, an actor's refusal, and that both leave the node out by name."""

import time
from dataclasses import replace

import pytest
import ray
from fake_stages import make_spec

from orchestrator.cluster import ray_backend, ray_preflight
from orchestrator.cluster.interface import Unfit
from orchestrator.cluster.preflight import Needs, inspect
from orchestrator.cluster.ray_backend import RayCluster
from orchestrator.cluster.ray_nodes import Node, living_nodes
from orchestrator.cluster.ray_preflight import Preflight, _Look
from orchestrator.cluster.ray_session import local
from orchestrator.cluster.ray_shards import RayShards
from orchestrator.config.schema import ClusterConfig
from workers.data.sources.files import FileLoader, PlainFiles
from workers.data.sources.listing import Row
from workers.data.sources.tree import LocalTree
from workers.data.store.shards import Encoding, ShardJob
from workers.errors import ConfigError, StorageError
from workers.numerics import code_digest

GIVE_UP_S = 120.0
GONE = Node(1, 0, "a" * 56, "gone", "10.0.0.9")


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """The node of a local Ray that lives as long as this module's tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        with local():
            yield living_nodes()[0]


@pytest.fixture
def needs(tmp_path):
    return Needs(code_digest(), tmp_path)


@pytest.mark.slow
def test_node_that_fits_is_used_and_leaves_no_file(node, needs, tmp_path, caplog):
    preflight = Preflight(needs)
    # The driver's machine, which may not train, has another CPU: nodes that are alike are not remarked on.
    preflight._here["processors"] = "Another"
    assert preflight.require([node]) == [node]
    assert preflight.left_out == {} and caplog.text == ""
    assert list(tmp_path.iterdir()) == []


def test_node_is_looked_at_while_others_work_and_used_once_it_has_answered(node, needs):
    preflight = Preflight(needs)
    assert preflight.fitting([node]) == [], "nobody waits for the answer"
    give_up = time.monotonic() + GIVE_UP_S
    while not preflight.fitting([node]):
        assert time.monotonic() < give_up
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"code": "0" * 64}, ConfigError, "its code of workers/"),
        ({"member_bytes": 1e18}, ConfigError, ".* of memory are free"),
        ({"folder": "absent"}, StorageError, "run_dir=.*absent is not there"),
    ],
)
def test_node_that_does_not_fit_is_left_out_by_name_and_none_is_left(node, needs, tmp_path, change, kind, said):
    if "folder" in change:
        change = {"folder": tmp_path / "absent"}
    preflight = Preflight(replace(needs, **change))
    with pytest.raises(kind, match=rf"no node of the cluster can be used: {node.host} \(127\.0\.0\.1\): {said}"):
        preflight.require([node])
    assert preflight.left_out[node.name].startswith(f"left out: node {node}: ")


def test_node_that_is_gone_is_left_out_and_the_others_are_used(node, needs):
    preflight = Preflight(needs)
    assert preflight.require([node, GONE]) == [node]
    (line,) = preflight.left_out.values()
    assert "its worker ended (" in line and line.endswith("look at Ray's logs there")


def test_node_that_has_just_joined_is_asked_again_until_ray_can_give_it_a_task(node, needs, monkeypatch):
    joined, seen = replace(node, name=GONE.name, host="joined"), []

    def ask(needs, of):
        seen.append(of.host)
        return real(needs, node if len(seen) > 2 else of)

    real = ray_preflight._ask
    monkeypatch.setattr(ray_preflight, "_ask", ask)
    monkeypatch.setattr(ray_preflight, "living_nodes", lambda: [node, joined])
    monkeypatch.setattr(ray_preflight, "_seen", lambda probe, text: True)
    preflight = Preflight(needs)
    assert preflight.require([joined]) == [joined]
    assert seen == ["joined"] * 3 and preflight.left_out == {}


def test_where_nodes_that_fit_are_gone_those_left_out_do_not_end_the_launch(node, needs):
    preflight = Preflight(needs)
    preflight.leave_out(GONE, Unfit("it has other code"))
    with pytest.raises(ConfigError):
        preflight.require_some([GONE])
    assert preflight.require([node]) == [node]
    preflight.require_some([GONE])


def test_a_name_that_an_earlier_look_has_used_proves_nothing_and_each_look_has_its_own(
    node, needs, tmp_path, monkeypatch
):
    probes = []

    def unseen(probe, text):
        probes.append(probe)
        return False

    monkeypatch.setattr(ray_preflight, "_seen", unseen)
    monkeypatch.setattr(ray_preflight, "_SEEN_S", 0.3)
    for _ in range(2):
        with pytest.raises(StorageError, match=f"what it writes in run_dir={tmp_path} is not seen here: mount"):
            Preflight(needs).require([node])
    assert len(set(probes)) == 2
    assert list(tmp_path.iterdir()) == [probes[-1]], "the second look has deleted what the first has left"


def test_node_that_answers_late_is_left_out_only_till_then_and_others_do_not_wait_for_it(
    node, needs, tmp_path, monkeypatch
):
    slow, go, probe = replace(node, name="b" * 56, host="slow"), tmp_path / "go", tmp_path / ".tmp-node-slow.1"

    def answer():
        # Nested, so that Ray sends it by value.
        while not go.exists():
            time.sleep(0.05)
        return inspect(probe, slow.name, ())

    def ask(needs, of):
        return _Look(ray.remote(answer).remote(), probe, time.monotonic() + 2.0) if of is slow else real(needs, of)

    real = ray_preflight._ask
    monkeypatch.setattr(ray_preflight, "_ask", ask)
    monkeypatch.setattr(ray_preflight, "_ENOUGH_S", 0.5)
    preflight = Preflight(needs)
    assert preflight.require([node, slow]) == [node] and preflight.left_out == {}
    give_up = time.monotonic() + GIVE_UP_S
    while not preflight.left_out:
        assert time.monotonic() < give_up
        assert preflight.fitting([node, slow]) == [node]
    assert "slow (127.0.0.1): no answer in" in preflight.left_out[slow.name]
    go.touch()
    while preflight.fitting([node, slow]) != [node, slow]:
        assert time.monotonic() < give_up
        time.sleep(0.05)
    assert preflight.left_out == {}


@pytest.mark.parametrize("fits", [True, False])
def test_members_keep_off_nodes_that_have_not_answered_unless_they_are_all_there_is(node, monkeypatch, fits):
    kept_off, preflight = [], Preflight(None)
    monkeypatch.setattr(Preflight, "unanswered", frozenset({"b" * 56}))
    monkeypatch.setattr(preflight, "fitting", lambda nodes: [node] if fits else [])
    monkeypatch.setattr(ray_backend, "usable_nodes", lambda names: kept_off.append(set(names)) or {})
    cluster = RayCluster(1, 1, 0, preflight=preflight)
    cluster.acquire("a")
    cluster.close()
    assert kept_off == [{"b" * 56} if fits else set()]


def test_actor_of_other_code_leaves_its_node_out_and_where_none_is_left_the_next_start_says_so(node, tmp_path):
    cluster = RayCluster(1, 1, 0)
    cluster.acquire("a")
    cluster.run_stage(replace(make_spec(tmp_path / "a" / "train"), code="0" * 64))
    give_up = time.monotonic() + GIVE_UP_S
    while not (found := cluster.poll(1.0)):
        assert time.monotonic() < give_up
    (refused,) = found
    assert isinstance(refused.outcome, Unfit) and refused.outcome.node_id == node.name
    where = cluster.where("a")
    assert where is not None and (where.node_id, where.address) == (node.name, "127.0.0.1")
    assert list(cluster.left_out) == [node.name]
    cluster.discard("a")
    with pytest.raises(ConfigError, match="run the same command again"):
        cluster.acquire("a")


def test_node_that_joins_while_images_are_packed_and_does_not_fit_is_left_out_by_its_first_shard(
    node, tmp_path, monkeypatch
):
    monkeypatch.setattr(Preflight, "require", lambda self, nodes: nodes)
    job = ShardJob(tmp_path / "absent", "train", 0, 0, (Row("a", "a", 0, bytes(32)),), 8, Encoding(), True)
    shards = RayShards(ClusterConfig())._packed(
        FileLoader(PlainFiles(LocalTree(tmp_path))), job, iter(()), lambda num_images: None
    )
    with pytest.raises(
        StorageError, match=rf"{node.host} \(127\.0\.0\.1\): datasets\.store=.*absent is not there: mount"
    ):
        list(shards)
