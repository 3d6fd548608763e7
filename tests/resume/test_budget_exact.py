"""Launches with a budget end by themselves, and the next one, in a copy of the run elsewhere, gives the same bytes."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import ask, write_ensemble
from in_process_launch import SETTINGS
from one_slot import one_slot
from run_artefacts import artefacts

from orchestrator import cluster, launching
from orchestrator.run.ledger import State, read_ledger
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import read_record
from workers.training.metrics import StepMark, read_step

pytestmark = pytest.mark.slow
TRIO = ("first", "second", "third")
NUM_UPDATES = 12 * len(TRIO)
BUDGET_S = 6.0


@pytest.fixture
def launch(capsys, monkeypatch):
    """Runs `septet launch` in a folder, with the members in threads of this process."""
    monkeypatch.setattr(cluster, "open_cluster", one_slot)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(folder: Path, *more: str):
        monkeypatch.chdir(folder)
        write_ensemble(folder / "groups", "trio", *TRIO)
        here = ("--config-dir=groups", "run_dir=run", "datasets.store=store", *SETTINGS[1:], "ensemble=trio")
        return ask(capsys, "launch", *here, *more)

    return run


@contextmanager
def slowly() -> Iterator[None]:
    """Makes each update take long, and a budget begin with the driver."""
    real = StepMark.set

    def set_(mark: StepMark, step: int) -> None:
        time.sleep(2 * BUDGET_S / NUM_UPDATES)
        real(mark, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepMark, "set", set_)
        patch.setattr(launching, "ends_at", lambda hours: time.time() + hours * 3600)
        yield


def test_launch_stops_in_its_budget_and_a_copy_elsewhere_continues_to_the_same_bytes(tmp_path, launch):
    for name in ("here", "there", "undisturbed"):
        (tmp_path / name).mkdir()
    # First, so that no import is left to a launch with a budget of seconds.
    assert launch(tmp_path / "undisturbed").code == 0
    with slowly():
        stopped = launch(tmp_path / "here", f"budget.hours={BUDGET_S / 3600}")
    paths = RunPaths(tmp_path / "here" / "run")
    ledger = read_ledger(paths.ledger)
    assert stopped.code == 143, stopped.err
    assert "is spent: " in stopped.line and " of 3 members are finished; run the same command again" in stopped.line
    assert ledger.state is State.stopped and time.time() >= ledger.budget_ends - BUDGET_S
    assert 0 < sum(read_step(step) for step in paths.members.glob("*/train/step.txt")) < NUM_UPDATES
    assert not any(paths.submission.glob("submission.*"))
    for name in ("run", "store"):
        shutil.copytree(tmp_path / "here" / name, tmp_path / "there" / name)
    shutil.rmtree(tmp_path / "here")
    continued = launch(tmp_path / "there")
    assert continued.code == 0, continued.err
    runs = [RunPaths(tmp_path / name / "run") for name in ("there", "undisturbed")]
    assert artefacts(runs[0]) == artefacts(runs[1])
    assert str(tmp_path / "here") not in str(read_record(runs[0]).stores)
    with slowly():
        (tmp_path / "short").mkdir()
        done = launch(tmp_path / "short", f"budget.hours={2 * BUDGET_S / 3600}", "submission.min_members=1")
    paths = RunPaths(tmp_path / "short" / "run")
    assert done.code == 4, done.err
    assert "is spent" in done.line and "of 3 members was written, without " in done.line and "retry" not in done.line
    assert read_ledger(paths.ledger).state is State.stopped
    assert any(paths.submission.glob("submission.*"))
