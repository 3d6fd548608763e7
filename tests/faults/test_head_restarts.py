"""A head that restarts without its state: the launch ends by one line, wherever it was, and resumes on the new one."""

import socket
import threading
import time

import pytest
from oracle import wait_for
from run_artefacts import artefacts
from unlike_nodes import OPEN, started_head

from orchestrator.run.ledger import read_ledger

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
GIVE_UP_S = 900.0
MOST_S = 30.0
ONE_CPU = "--num-cpus=1"


@pytest.fixture
def place(new_place):
    place = new_place("restarts")
    place.environment = OPEN
    return place


def _restarted(place, port, due, *words, cpus=()):
    """How a launch ended whose head was killed once `due`, and restarted; and the seconds from the kill to its end."""
    with started_head(place.temporary / "before", port, *cpus) as address:
        process = place.start(f"cluster.address={address}", *words)
        wait_for(lambda: due() or process.poll() is not None)
        assert process.poll() is None, place.ended(process)
    killed, over = time.monotonic(), []
    waiter = threading.Thread(target=lambda: over.append((process.wait(), time.monotonic())))
    waiter.start()
    with started_head(place.temporary / "after", port, *cpus):
        waiter.join(120.0)
        return place.ended(process), over[0][1] - killed


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_launch_that_waits_for_a_node_ends_by_one_line(place, port):
    errors = place.root / "output-0.err"
    ended, took_s = _restarted(
        place, port, lambda: "waiting for one to join" in errors.read_text(), "cluster.wait_s=600"
    )
    assert ended.code == 1
    assert ended.line.endswith("is gone; run the same command again")
    assert took_s < MOST_S


def test_launch_that_trains_ends_by_one_line_and_resumes_to_the_same_bytes(undisturbed, place, port):
    def trains():
        entries = read_ledger(place.paths.ledger).stages.values() if place.paths.ledger.exists() else ()
        return any(one.where for entry in entries for one in entry.attempts)

    ended, took_s = _restarted(place, port, trains, cpus=(ONE_CPU,))
    assert ended.code == 1
    assert ended.line.endswith("is gone; run the same command again")
    assert took_s < MOST_S
    with started_head(place.temporary / "third", port, ONE_CPU) as address:
        again = place.ended(place.start(f"cluster.address={address}"), GIVE_UP_S)
    assert again.code == 0, again.err
    assert artefacts(place.paths) == artefacts(undisturbed.paths)
