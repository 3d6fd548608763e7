"""Nodes of a real Ray cluster that go, with and without a notice, and a head that goes: what a run makes of it."""

import os
import subprocess
import sys

import oracle
import pytest
from oracle import expect_end_in_order, expect_recovered, placed, wait_for
from ray_nodes_process import ray_of_nodes
from redone import redone_updates
from run_artefacts import artefacts
from septet_held import UNWATCHED

from orchestrator.run.ledger import AttemptEnd, read_ledger
from workers.training.metrics import read_step

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
# Of a launch; members under stress get a tenth of a core.
GIVE_UP_S = 1500.0
OPEN = {"RAY_AUTH_MODE": "disabled"}
# Long enough to be met in the midst of.
LONG = (
    *("ensemble=plain", "checkpoint_updates=4", "precision=fp32", "optimizer.batch_size=400", "model.width=0.1"),
    *("model.fc_units=32", "ensemble.stages.train.epochs=240", "cluster.cpus_per_member=1", "cluster.max_losses=1"),
)
GROUP = "members:\n  one: {stages: {train: {dataset: target}}}\n  two: {stages: {train: {dataset: target}}}\n"


def make_long(place):
    (place.root / "groups" / "ensemble" / "plain.yaml").write_text(GROUP)
    place.overrides = LONG
    return place


@pytest.fixture
def nodes(tmp_path):
    with ray_of_nodes(3, tmp_path / "cluster.txt", OPEN) as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, store):
    with placed(tmp_path_factory.mktemp("long"), store, in_process=True) as place:
        assert make_long(place).launch().code == 0
        yield place


@pytest.fixture
def place(new_place):
    return make_long(new_place("nodes"))


def _launch(place, nodes, moment=""):
    """A launch on the cluster, its members well under way."""
    place.environment = OPEN | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = place.start(f"cluster.address={nodes.address}", moment=moment)
    wait_for(lambda: all(_step(place, member) > 10 for member in ("one", "two")) or process.poll() is not None)
    assert process.poll() is None, place.ended(process)
    return process


def _step(place, member):
    return read_step(place.paths.members / member / "train" / "step.txt")


def _entries(place):
    return [entry for name, entry in read_ledger(place.paths.ledger).stages.items() if name.endswith("/train")]


@pytest.mark.parametrize("notice", [True, False], ids=["drained", "lost"])
def test_member_of_a_lost_node_ends_in_the_same_bytes(undisturbed, place, nodes, notice):
    process = _launch(place, nodes)
    nodes.order("drain" if notice else "remove")
    ended = place.ended(process, GIVE_UP_S)
    assert ended.code == 0, ended.err
    ends = [attempt.outcome for entry in _entries(place) for attempt in entry.attempts]
    assert ends.count(AttemptEnd.preempted if notice else AttemptEnd.lost) == 1, ends
    assert ends.count(AttemptEnd.done) == 2
    if notice:
        assert sum(redone_updates(entry) for entry in _entries(place)) == 0, "it checkpointed too late"
    assert artefacts(place.paths) == artefacts(undisturbed.paths)
    assert not list(place.paths.root.rglob(".tmp-*")) and place.running_in_mlflow() == []


def test_lost_head_ends_the_launch_and_it_resumes(undisturbed, place, nodes, family, monkeypatch):
    # Idle workers of the lost cluster are Ray's to end, after its own time-outs: more than 75 s measured, under 280 s;
    # actors under stress take longer than 300 s.
    monkeypatch.setattr(oracle, "GONE_S", 900.0)
    process = _launch(place, nodes)
    nodes.kill()
    ended = place.ended(process, GIVE_UP_S)
    # Ray's own threads may complain after it.
    said = [line for line in ended.err.splitlines() if line.startswith("septet: ")]
    assert ended.code == 1 and len(said) == 1 and "run the same command again" in said[0], ended
    expect_end_in_order(place, family)
    place.environment = {}
    place.in_process = True
    expect_recovered(place, undisturbed, family)
    assert all(attempt.resumed_from > 0 for entry in _entries(place) for attempt in entry.attempts[1:])


def test_unwatched_head_that_is_lost_takes_the_launch_down_without_a_word(place, nodes):
    """The control: without the look at the head Ray ends the process, and nobody says what to do."""
    process = _launch(place, nodes, UNWATCHED)
    nodes.kill()
    try:
        process.wait(GIVE_UP_S)
    except subprocess.TimeoutExpired:
        process.kill()
    ended = place.ended(process)
    assert ended.code != 1 or "run the same command again" not in ended.err
