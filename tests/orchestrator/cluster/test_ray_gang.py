"""How a gang ends, given how its workers did (pure), and real Ray: a gang of two trains, and another loses a worker."""

import os
import signal
import socket
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
from fake_stages import make_spec
from stages import never
from tiny_stage import TINY, make_spec as make_real_spec, make_store

from orchestrator.cluster import ray_backend, ray_gang
from orchestrator.cluster.actor import Duties
from orchestrator.cluster.interface import Failure, Halted, Lost, Trained, Unfit, Where
from orchestrator.cluster.ray_backend import RayCluster, open_cluster
from orchestrator.cluster.ray_gang import Followers
from orchestrator.cluster.ray_nodes import Node
from orchestrator.config.schema import ClusterConfig
from workers.errors import ConfigError, PeerLost, Stopped
from workers.protocol import StageResult
from workers.training import run_stage

GIVE_UP_S = 120.0
DONE = Trained(StageResult(1, 0, "", "", None, None, False))
LONELY = Failure("PeerLost", "a worker of the gang is gone", "", retryable=True)
BROKEN = Failure("OSError", "disk", "", retryable=True)
DEAD, UNFIT = Lost("killed"), Unfit("other code")


@pytest.mark.parametrize(
    ("ends", "outcome", "later"),
    [
        ({}, None, None),
        ({0: DONE}, DONE, DONE),
        ({0: Halted("stopped"), 1: LONELY}, Halted("stopped"), Halted("stopped")),
        # Who trained to the end has only ended before rank 0 has written what follows.
        ({1: DONE, 2: DONE}, None, None),
        # A peer is gone, and why is told later; or never.
        ({0: LONELY}, None, LONELY),
        ({0: LONELY, 2: LONELY, 1: DEAD}, DEAD, DEAD),
        ({0: LONELY, 2: LONELY, 1: LONELY}, LONELY, LONELY),
        # Rank 0 may be evaluating, and not know yet.
        ({1: LONELY, 2: DEAD}, None, DEAD),
        ({1: UNFIT}, None, UNFIT),
        ({0: BROKEN, 1: DEAD}, BROKEN, BROKEN),
    ],
)
def test_gang_ends_as_rank_0_did_unless_another_worker_was_why(ends, outcome, later, monkeypatch):
    followers = Followers(["rank 1", "rank 2"])
    for rank, end in ends.items():
        followers.note(rank, end)
    assert followers.outcome() == outcome
    monkeypatch.setattr(ray_gang, "DEATH_TOLD_S", -1.0)
    assert followers.outcome() == later
    followers.begin()
    assert followers.outcome() is None


def _duties():
    """Nested, so that Ray sends it by value: its workers cannot import this file."""

    def make():
        def run_stage(spec, should_stop):
            meeting = spec.meeting
            if spec.member == "dies" and spec.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if spec.rank:
                with socket.create_connection((meeting.host, meeting.port), timeout=60) as connection:
                    connection.sendall(meeting.here.encode())
                    connection.recv(1)
                raise PeerLost("rank 0 has ended")
            while spec.member == "dies":
                time.sleep(0.1)
            with socket.socket(fileno=os.dup(meeting.listener)) as listener:
                connection, _ = listener.accept()
            with connection:
                heard = connection.recv(100).decode()
                while not should_stop():
                    time.sleep(0.01)
            raise Stopped(f"{heard}, {meeting.here}, {spec.width}")

        return Duties(run_stage, lambda spec, should_stop: ())

    return make


def _next(cluster):
    give_up = time.monotonic() + GIVE_UP_S
    while time.monotonic() < give_up:
        if found := cluster.poll(0.5):
            assert len(found) == 1
            return found[0]
    raise TimeoutError


@pytest.mark.slow
def test_gangs_of_two_on_real_ray_train_stop_and_lose_a_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_gang, "DEATH_TOLD_S", 1.0)
    store = make_store(tmp_path / "store")
    recipe = replace(TINY, optimizer=replace(TINY.optimizer, shards=3), schedule=replace(TINY.schedule, epochs=1))
    alone, together = (make_real_spec(store, tmp_path / name / "train", recipe) for name in ("alone", "together"))
    # As the driver does.
    together.stage_dir.mkdir(parents=True)
    with open_cluster(ClusterConfig()):
        cluster = RayCluster(2, 1, 0)
        cluster.acquire("base1", 2)
        cluster.run_stage(replace(together, width=2))
        end = _next(cluster)
        assert isinstance(end.outcome, Trained), end
        cluster.release("base1")
        assert len(cluster._idle) == 2, "they have torch loaded, and may serve other members"
        cluster.close()
        # As on a cluster at an address: placed together, and not on a node that is left out.
        cluster = RayCluster(2, 1, 0, _duties(), nodes_change=True)
        cluster.quarantine({"f" * 56: "left out"})
        cluster.acquire("waits", 2)
        cluster.run_stage(replace(make_spec(tmp_path / "waits" / "train"), width=2))
        log = tmp_path / "waits" / "train" / "log.txt"
        give_up = time.monotonic() + GIVE_UP_S
        while not log.exists() or not cluster._node_of(cluster._actors_of("waits")[1]):
            assert time.monotonic() < give_up
            time.sleep(0.05)
        cluster.stop("waits")
        assert _next(cluster).outcome == Halted("127.0.0.1, 127.0.0.1, 2")
        cluster.release("waits")
        assert not cluster._idle, "an actor outlived its placement group"
        cluster.acquire("dies", 2)
        cluster.run_stage(replace(make_spec(tmp_path / "dies" / "train"), width=2))
        assert isinstance(_next(cluster).outcome, Lost)
        cluster.close()
    assert end.outcome.result.checkpoint_sha256 == run_stage(alone, never).checkpoint_sha256


class Placed(RayCluster):
    """Starts and ends nothing; `nodes_of` has the nodes of actors, which are numbers."""

    def __init__(self):
        super().__init__(4, 1, 0, nodes_change=True)
        self.num_started, self.ended, self.nodes_of = 0, [], {}

    def _new(self, **place):
        self.num_started += 1
        return self.num_started

    def _kill(self, actor):
        self.ended.append(actor)

    def _place(self, actor):
        node = self.nodes_of.get(actor)
        return Where("", "", 0, "", node) if node else None


@pytest.fixture
def placed(monkeypatch):
    monkeypatch.setattr(ray_backend, "place_together", lambda width, *_: ("group", [{"rank": n} for n in range(width)]))
    return Placed()


def test_idle_actors_leave_their_room_to_a_gang_that_waits_for_it(placed):
    placed.grows = True
    placed.end_idle(2)
    placed.nodes_of = {1: "a", 2: "b"}
    placed.acquire("wide", 2)
    assert placed.ended == [1, 2], "they may hold all CPUs, and Ray places a gang at once or not at all"
    placed.end_idle(2)
    assert not placed._idle
    placed.nodes_of |= {3: "a", 4: "b"}
    placed.end_idle(2)
    assert len(placed._idle) == 2


def test_place_of_a_gang_that_has_ended_is_that_of_the_worker_that_was_why(placed):
    placed.acquire("wide", 3)
    placed.nodes_of = {1: "a", 2: "b", 3: "c"}
    assert placed.where("wide").node_id == "a"
    for rank, end in ((0, LONELY), (2, LONELY), (1, DEAD)):
        placed._followers["wide"].note(rank, end)
    assert placed._followers["wide"].outcome() == DEAD
    assert placed.where("wide").node_id == "b"


def test_cluster_that_never_has_room_for_the_narrowest_gang_is_refused(monkeypatch):
    monkeypatch.setattr(ray_backend, "local", nullcontext)
    monkeypatch.setattr(ray_backend, "able_nodes", lambda *_: [Node(2, 0)])
    with (
        pytest.raises(ConfigError, match="room for 2 workers at once, not for 3"),
        open_cluster(ClusterConfig(workers_per_member=(3, 4))),
    ):
        pass
