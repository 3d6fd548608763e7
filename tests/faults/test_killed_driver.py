"""kill -9 of the driver: the same command again comes to the same bytes, and little is redone."""

import random
import signal
from collections.abc import Callable

import pytest
from oracle import SMALL, Family, Place, expect_recovered, wait_for
from redone import redone_updates
from run_artefacts import artefacts

from orchestrator.run.holder import is_locked
from orchestrator.run.ledger import AttemptEnd, read_ledger
from orchestrator.run.record import read_record

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
# Three updates an epoch: the ledger counts exactly. The quick part kills one on Ray (test_oracle.py).
MOMENTS = ("training 6", "training 14", "predicting 2", "submission")
# Of SMALL.
INTERVAL = 4
# Long enough for a dozen kills.
LONGER = (*SMALL, "ensemble.stages.finetune.epochs=5", "ensemble.stages.train.epochs=6")
NUM_KILLS = 11


def check_ledger(place: Place, num_interrupted: int) -> None:
    stages = read_ledger(place.paths.ledger).stages
    attempts = [attempt for entry in stages.values() for attempt in entry.attempts]
    assert sum(attempt.outcome is AttemptEnd.interrupted for attempt in attempts) >= num_interrupted
    for entry in stages.values():
        for before, after in zip(entry.attempts, entry.attempts[1:], strict=False):
            # A save waits for the commit of the one before it: two intervals are lost where that took a whole one.
            assert before.last_step - after.resumed_from <= 2 * INTERVAL
    assert sum(redone_updates(entry) for entry in stages.values()) > 0, "nothing was redone: the count is not of kills"


def test_driver_killed_ends_in_the_same_bytes(
    undisturbed: Place, new_place: Callable[..., Place], family: Family
) -> None:
    place = new_place("killed", in_process=True)
    for moment in MOMENTS:
        process = place.start(moment=moment)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not is_locked(place.paths)
    expect_recovered(place, undisturbed, family)
    check_ledger(place, num_interrupted=2)
    assert read_record(place.paths).mlflow["run_id"]


def launch_and_kill(place: Place, due: Callable[[], bool]) -> bool:
    """Kills the driver once `due`; False if it came to its end first."""
    process = place.start()
    wait_for(lambda: due() or process.poll() is not None)
    process.kill()
    return process.wait() == -signal.SIGKILL


def num_points(place: Place) -> int:
    return sum(path.read_bytes().count(b"\n") for path in place.paths.members.glob("*/*/metrics.jsonl"))


def test_driver_killed_at_random_ends_in_the_same_bytes(new_place: Callable[..., Place], family: Family) -> None:
    reference, place = (new_place(name, in_process=True) for name in ("reference", "killed"))
    reference.overrides = place.overrides = LONGER
    assert reference.launch().code == 0
    moments, num_killed, num_in_training = random.Random(2012), 0, 0
    for _ in range(NUM_KILLS):
        # From the very start of a launch (0 points) to a few checkpoints later.
        target = num_points(place) + moments.choice([-1, 0, 1, 2, 3, 5, 7])
        early = target < num_points(place)
        num_killed += launch_and_kill(
            place, lambda early=early, target=target: is_locked(place.paths) if early else num_points(place) > target
        )
        num_in_training += num_points(place) > 0
        assert not is_locked(place.paths)
    expect_recovered(place, reference, family)
    assert num_killed >= 10, "the run was over before the tenth kill: let it train longer"
    assert num_in_training >= 8
    check_ledger(place, num_interrupted=5)


def test_driver_killed_at_each_artefact_ends_in_the_same_bytes(
    undisturbed: Place, new_place: Callable[..., Place]
) -> None:
    place = new_place("killed", in_process=True)
    for name in ("run.json", "members/chained/finetune/DONE.json", "members/plain/predictions/test.npy", "submission"):
        assert launch_and_kill(place, (place.paths.root / name).exists), f"the launch was over before {name} was seen"
    assert place.launch().code == 0
    assert artefacts(place.paths) == artefacts(undisturbed.paths)
