"""A head of a real Ray cluster that goes with all its nodes: what a run makes of it."""

import os
import subprocess
import sys

import pytest
from long_run import make_long, trained, undisturbed_long, wait_until_trains
from oracle import expect_clean_end, expect_recovered
from ray_nodes_process import ray_of_nodes
from septet_held import UNWATCHED

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
# Of a launch; members under stress get a tenth of a core.
GIVE_UP_S = 1500.0
OPEN = {"RAY_AUTH_MODE": "disabled"}


@pytest.fixture
def nodes(tmp_path):
    with ray_of_nodes(3, tmp_path / "cluster.txt", OPEN) as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, store):
    with undisturbed_long(tmp_path_factory.mktemp("long"), store, GIVE_UP_S) as place:
        yield place


@pytest.fixture
def place(new_place):
    return make_long(new_place("nodes"))


def _launch(place, nodes, moment=""):
    """A launch on the cluster, its members well under way."""
    place.environment = OPEN | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = place.start(f"cluster.address={nodes.address}", moment=moment)
    wait_until_trains(place, process)
    return process


def test_lost_head_ends_the_launch_and_it_resumes(undisturbed, place, nodes, family):
    process = _launch(place, nodes)
    nodes.kill()
    ended = place.ended(process, GIVE_UP_S)
    # Ray's own threads may complain after it.
    said = [line for line in ended.err.splitlines() if line.startswith("septet: ")]
    assert ended.code == 1 and len(said) == 1 and "run the same command again" in said[0], ended
    # Members die with their nodes, maybe as they write; the next launch removes what they leave.
    expect_clean_end(place, family)
    assert place.running_in_mlflow() == []
    place.environment = {}
    place.in_process = True
    expect_recovered(place, undisturbed, family, GIVE_UP_S)
    assert all(attempt.resumed_from > 0 for entry in trained(place) for attempt in entry.attempts[1:])


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
