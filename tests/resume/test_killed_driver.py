"""kill -9 of the driver at seeded moments: the same command again comes to the same bytes, and little is redone."""

import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from run_artefacts import artefacts

from orchestrator.ledger import AttemptEnd, read_ledger
from orchestrator.run_dir import RunPaths, is_locked, read_record

SCRIPT = Path(__file__).with_name("launch_in_process.py")
INTERVAL = 4
NUM_KILLS = 11
GIVE_UP_S = 240.0


@dataclass
class Place:
    """One run's directory and tracking database; the store is shared."""

    root: Path
    store: Path
    groups: Path
    command: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.root.mkdir()
        self.command = [
            *(sys.executable, str(SCRIPT), str(self.paths.root), str(self.store)),
            *(str(self.root / "mlflow.db"), str(self.groups)),
        ]

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.root / "run")

    def launch(self) -> None:
        done = subprocess.run(self.command, capture_output=True, text=True, timeout=GIVE_UP_S, check=False)
        assert done.returncode == 0, done.stderr

    def launch_and_kill(self, due: Callable[[], bool]) -> bool:
        """Kills the driver once `due`; False if it came to its end first."""
        process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL)
        give_up = time.monotonic() + GIVE_UP_S
        while process.poll() is None and not due():
            assert time.monotonic() < give_up
            time.sleep(0.002)
        process.kill()
        return process.wait() == -9

    def num_points(self) -> int:
        return sum(path.read_bytes().count(b"\n") for path in self.paths.members.glob("*/*/metrics.jsonl"))


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = SCRIPT.read_text()
    found = re.search(r'GROUP = """\n(.*?)"""', source, re.DOTALL)
    assert found is not None
    folder = tmp_path_factory.mktemp("groups")
    (folder / "ensemble").mkdir()
    (folder / "ensemble" / "two.yaml").write_text(found[1])
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, groups: Path) -> Place:
    folder = tmp_path_factory.mktemp("undisturbed")
    place = Place(folder / "a", folder / "store", groups)
    place.launch()
    assert len(artefacts(place.paths)) == 2 + 2 * 3 + 3
    return place


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_driver_killed_at_seeded_moments_ends_in_the_same_bytes(undisturbed: Place, tmp_path: Path) -> None:
    moments = random.Random(2012)
    place = Place(tmp_path / "b", undisturbed.store, undisturbed.groups)
    num_killed, num_in_training = 0, 0
    for _ in range(NUM_KILLS):
        # From the very start of a launch (0 points) to a few checkpoints on.
        target = place.num_points() + moments.choice([-1, 0, 1, 2, 3, 5, 7])
        if target < place.num_points():
            killed = place.launch_and_kill(lambda: is_locked(place.paths))
        else:
            killed = place.launch_and_kill(lambda reached=target: place.num_points() > reached)
        num_killed += killed
        num_in_training += place.num_points() > 0
        assert not is_locked(place.paths)
    place.launch()
    assert num_killed >= 10, "the run was over before the tenth kill: let it train longer"
    assert num_in_training >= 8
    assert artefacts(place.paths) == artefacts(undisturbed.paths)
    _check_ledger(place.paths)
    leftovers = [path for path in place.paths.root.rglob(".tmp-*") if path.parent.name != "checkpoints"]
    assert not leftovers
    assert read_record(place.paths).mlflow["run_id"]


def _check_ledger(paths: RunPaths) -> None:
    stages = read_ledger(paths.ledger).stages
    interrupted = 0
    for entry in stages.values():
        for before, after in zip(entry.attempts, entry.attempts[1:], strict=False):
            # A save waits for the commit of the one before it: two intervals are lost where that took a whole one.
            assert before.last_step - after.resumed_from <= 2 * INTERVAL
            interrupted += before.outcome is AttemptEnd.interrupted
    assert interrupted >= 5, "the kills hardly met an attempt"
    assert sum(entry.redone_updates for entry in stages.values()) > 0, "nothing was redone: the count is not of kills"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_driver_killed_as_artefacts_appear_ends_in_the_same_bytes(undisturbed: Place, tmp_path: Path) -> None:
    place = Place(tmp_path / "c", undisturbed.store, undisturbed.groups)
    root = place.paths.root
    for name in ("run.json", "members/chained/finetune/DONE.json", "members/plain/predictions/test.npy", "submission"):
        killed = place.launch_and_kill(lambda artefact=root / name: artefact.exists())
        assert killed, f"the launch was over before {name} was seen"
    place.launch()
    assert artefacts(place.paths) == artefacts(undisturbed.paths)


@pytest.mark.slow
def test_launch_of_a_finished_run_trains_nothing_and_changes_no_artefact(undisturbed: Place) -> None:
    before, attempts = artefacts(undisturbed.paths), read_ledger(undisturbed.paths.ledger).stages
    undisturbed.launch()
    assert artefacts(undisturbed.paths) == before
    assert {name: entry.attempts for name, entry in read_ledger(undisturbed.paths.ledger).stages.items()} == {
        name: entry.attempts for name, entry in attempts.items()
    }
