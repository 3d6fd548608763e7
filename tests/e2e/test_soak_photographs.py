"""`make soak`: kill -9 of the driver at seeded moments of a seven-member run on photographs, on a Ray of its own."""

import random
import subprocess
import time
from pathlib import Path

import pytest
from oracle import placed
from redone import redone_updates
from run_artefacts import artefacts
from soak_seeds import seeds

from orchestrator.run.holder import is_locked
from orchestrator.run.ledger import read_ledger

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
NUM_KILLS = 12
CHECKPOINT_UPDATES = 20
LONGEST_LAUNCH_S = 3000.0
# Ray alone takes some seconds to start: a shorter life would always end before the first update.
SHORTEST_LIFE_S, LONGEST_LIFE_S = 3.0, 25.0
# All lives together must be shorter than the whole launch.
LONGEST_LIFE_SHARE = 1 / 6
SMALL = (
    *("experiment=tiny_imagenet", f"checkpoint_updates={CHECKPOINT_UPDATES}", "tracking.required=false"),
    *(f"ensemble.stages.{name}.epochs={epochs}" for name, epochs in (("train", 5), ("pretrain", 2), ("finetune", 4))),
)


@pytest.mark.parametrize("seed", seeds())
def test_driver_killed_a_dozen_times_on_photographs_ends_in_the_same_bytes(
    seed: int, real_images: Path, tmp_path: Path
) -> None:
    roots = (f"datasets.target.root={real_images}", f"datasets.superset.root={real_images}")
    overrides = (*SMALL, *roots, f"datasets.target.classes={real_images / 'target-10.txt'}")
    store, moments, lives = tmp_path / "store", random.Random(seed), []
    with placed(tmp_path / "undisturbed", store) as undisturbed, placed(tmp_path / "killed", store) as place:
        undisturbed.overrides = place.overrides = overrides
        started = time.monotonic()
        ended = undisturbed.launch(give_up_s=LONGEST_LAUNCH_S)
        assert ended.code == 0, ended.err
        whole_s = time.monotonic() - started
        longest_s = min(LONGEST_LIFE_S, SHORTEST_LIFE_S + LONGEST_LIFE_SHARE * whole_s)
        while len(lives) < NUM_KILLS:
            life_s, process = moments.uniform(SHORTEST_LIFE_S, longest_s), place.start()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(life_s)
                raise AssertionError(f"over before kill {len(lives) + 1}: train longer")
            process.kill()
            process.wait()
            lives.append(round(life_s, 1))
            assert not is_locked(place.paths)
        started = time.monotonic()
        ended = place.launch(give_up_s=LONGEST_LAUNCH_S)
        assert ended.code == 0, ended.err
        entries = read_ledger(place.paths.ledger).stages
        redone = {name: redone_updates(entry) for name, entry in entries.items()}
        print(f"seed {seed}, lives {lives} s, redone {redone}, last launch {time.monotonic() - started:.0f} s")  # noqa: T201
        for entry in entries.values():
            for before, after in zip(entry.attempts, entry.attempts[1:], strict=False):
                # A save waits for the commit of the one before it: two intervals are lost where that took a whole one.
                assert before.last_step - after.resumed_from <= 2 * CHECKPOINT_UPDATES
        assert sum(redone.values()) > 0, "no kill met a stage between its checkpoints"
        assert artefacts(place.paths) == artefacts(undisturbed.paths)
