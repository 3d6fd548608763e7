"""`make soak`: kill -9 of the driver at seeded moments of a seven-member run on photographs, on real Ray."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redone import redone_updates
from run_artefacts import artefacts

from orchestrator.run.holder import is_locked
from orchestrator.run.ledger import read_ledger
from orchestrator.run.paths import RunPaths

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
SEED = 2012
NUM_KILLS = 12
CHECKPOINT_UPDATES = 20
# Ray alone takes some seconds to start: a shorter life would always end before the first update.
SHORTEST_LIFE_S, LONGEST_LIFE_S = 3.0, 25.0
SMALL = (
    "experiment=tiny_imagenet",
    f"checkpoint_updates={CHECKPOINT_UPDATES}",
    "tracking.required=false",
    "ensemble.stages.train.epochs=5",
    "ensemble.stages.pretrain.epochs=2",
    "ensemble.stages.finetune.epochs=4",
)


def command(place: Path, images: Path) -> list[str]:
    roots = [f"datasets.target.root={images}", f"datasets.superset.root={images}"]
    classes = f"datasets.target.classes={images / 'target-10.txt'}"
    here = [f"run_dir={place / 'run'}", f"tracking.uri=sqlite:///{place / 'mlflow.db'}"]
    store = f"datasets.store={place.parent / 'store'}"
    return [sys.executable, "-m", "orchestrator.cli.program", "launch", *SMALL, *roots, classes, *here, store]


def launch(place: Path, images: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(place, images), capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


def launch_and_kill(place: Path, images: Path, life_s: float) -> bool:
    """Whether the driver still lived after `life_s` and was killed."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command(place, images), env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)
    try:
        process.wait(life_s)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait() == -9


def test_driver_killed_a_dozen_times_on_photographs_ends_in_the_same_bytes(real_images: Path, tmp_path: Path) -> None:
    launch(tmp_path / "undisturbed", real_images)
    place, moments = tmp_path / "killed", random.Random(SEED)
    paths = RunPaths(place / "run")
    lives = []
    while len(lives) < NUM_KILLS:
        life_s = moments.uniform(SHORTEST_LIFE_S, LONGEST_LIFE_S)
        assert launch_and_kill(place, real_images, life_s), f"over before kill {len(lives) + 1}: train longer"
        lives.append(round(life_s, 1))
        assert not is_locked(paths)
    started = time.monotonic()
    launch(place, real_images)
    entries = read_ledger(paths.ledger).stages
    redone = {name: redone_updates(entry) for name, entry in entries.items()}
    print(f"seed {SEED}, lives {lives} s, redone {redone}, last launch {time.monotonic() - started:.0f} s")  # noqa: T201
    for entry in entries.values():
        for before, after in zip(entry.attempts, entry.attempts[1:], strict=False):
            # A save waits for the commit of the one before it: two intervals are lost where that took a whole one.
            assert before.last_step - after.resumed_from <= 2 * CHECKPOINT_UPDATES
    assert sum(redone.values()) > 0, "no kill met a stage between its checkpoints"
    assert artefacts(paths) == artefacts(RunPaths(tmp_path / "undisturbed" / "run"))
