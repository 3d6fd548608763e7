"""kill -9 of the driver at seeded moments: the same command again comes to the same bytes, and little is redone."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from oracle import SMALL, Place, placed, wait_for
from redone import redone_updates
from run_artefacts import artefacts

from orchestrator.run.holder import is_locked
from orchestrator.run.ledger import AttemptEnd, read_ledger
from orchestrator.run.record import read_record

# Long enough for a dozen kills. Three updates an epoch: the ledger counts exactly.
LONGER = (*SMALL, "ensemble.stages.finetune.epochs=5", "ensemble.stages.train.epochs=6")
INTERVAL = 4
NUM_KILLS = 11


@contextmanager
def longer(root: Path, store: Path) -> Iterator[Place]:
    """A place for the longer run, its members in the driver's own process, with real training."""
    with placed(root, store, in_process=True) as place:
        place.overrides = LONGER
        yield place


def launch(place: Place) -> None:
    ended = place.launch()
    assert ended.code == 0, ended.err


def launch_and_kill(place: Place, due: Callable[[], bool]) -> bool:
    """Kills the driver once `due`; False if it came to its end first."""
    process = place.start()
    wait_for(lambda: due() or process.poll() is not None)
    process.kill()
    return process.wait() == -9


def num_points(place: Place) -> int:
    return sum(path.read_bytes().count(b"\n") for path in place.paths.members.glob("*/*/metrics.jsonl"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with longer(folder / "a", folder / "store") as place:
        launch(place)
        assert len(artefacts(place.paths)) == 2 + 2 * 3 + 3
        yield place


@pytest.fixture
def victim(tmp_path: Path, undisturbed: Place) -> Iterator[Place]:
    with longer(tmp_path / "killed", undisturbed.store) as place:
        yield place


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_driver_killed_at_seeded_moments_ends_in_the_same_bytes(undisturbed: Place, victim: Place) -> None:
    moments = random.Random(2012)
    num_killed, num_in_training = 0, 0
    for _ in range(NUM_KILLS):
        # From the very start of a launch (0 points) to a few checkpoints on.
        target = num_points(victim) + moments.choice([-1, 0, 1, 2, 3, 5, 7])
        if target < num_points(victim):
            killed = launch_and_kill(victim, lambda: is_locked(victim.paths))
        else:
            killed = launch_and_kill(victim, lambda reached=target: num_points(victim) > reached)
        num_killed += killed
        num_in_training += num_points(victim) > 0
        assert not is_locked(victim.paths)
    launch(victim)
    assert num_killed >= 10, "the run was over before the tenth kill: let it train longer"
    assert num_in_training >= 8
    assert artefacts(victim.paths) == artefacts(undisturbed.paths)
    _check_ledger(victim)
    leftovers = [path for path in victim.paths.root.rglob(".tmp-*") if path.parent.name != "checkpoints"]
    assert not leftovers
    assert read_record(victim.paths).mlflow["run_id"]


def _check_ledger(place: Place) -> None:
    stages = read_ledger(place.paths.ledger).stages
    interrupted = 0
    for entry in stages.values():
        for before, after in zip(entry.attempts, entry.attempts[1:], strict=False):
            # A save waits for the commit of the one before it: two intervals are lost where that took a whole one.
            assert before.last_step - after.resumed_from <= 2 * INTERVAL
            interrupted += before.outcome is AttemptEnd.interrupted
    assert interrupted >= 5, "the kills hardly met an attempt"
    assert sum(redone_updates(entry) for entry in stages.values()) > 0, "nothing was redone: the count is not of kills"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_driver_killed_as_artefacts_appear_ends_in_the_same_bytes(undisturbed: Place, victim: Place) -> None:
    root = victim.paths.root
    for name in ("run.json", "members/chained/finetune/DONE.json", "members/plain/predictions/test.npy", "submission"):
        killed = launch_and_kill(victim, lambda artefact=root / name: artefact.exists())
        assert killed, f"the launch was over before {name} was seen"
    launch(victim)
    assert artefacts(victim.paths) == artefacts(undisturbed.paths)


@pytest.mark.slow
def test_launch_of_a_finished_run_trains_nothing_and_changes_no_artefact(undisturbed: Place) -> None:
    before, attempts = artefacts(undisturbed.paths), read_ledger(undisturbed.paths.ledger).stages
    launch(undisturbed)
    assert artefacts(undisturbed.paths) == before
    assert {name: entry.attempts for name, entry in read_ledger(undisturbed.paths.ledger).stages.items()} == {
        name: entry.attempts for name, entry in attempts.items()
    }
