"""More epochs for a finished run: where the schedule allows it, the bits are those of as many from the start."""

import pytest
from make_run import NET, write_images
from no_tracker import NoTracker
from one_slot import one_slot

from orchestrator import launching as story
from orchestrator.cli.program import main
from orchestrator.plan.model import plan_from_json
from orchestrator.run.ledger import read_ledger
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import read_record
from workers.storage import atomic, read_finished

# In an epoch of the 12 images that are left to train on.
NUM_UPDATES = 2
SMALL = (
    *("ensemble=sweep", "sweep.seed=[0,1]", "datasets.store=stores", "precision=fp32", "optimizer.batch_size=8"),
    *("cluster.cpus_per_member=1", "checkpoint_updates=2", *(f"model.{setting}" for setting in NET)),
    *("dataset@datasets.target=folder", "datasets.target.root=images", "datasets.target.size=20"),
    *("datasets.target.val_fraction=0.3", "datasets.target.dev_fraction=0.2", "submission=probabilities"),
)


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Launches into a run directory by its name, in this process and without MLflow."""
    write_images(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(story.cluster, "open_cluster", one_slot)
    monkeypatch.setattr(story.tracking, "probe", lambda *_: "")
    monkeypatch.setattr(story, "Tracker", lambda *_: NoTracker())
    return lambda run, *words: main(["launch", f"run_dir={run}", *SMALL, *words])


def digests(run):
    """Of the weights, the predictions and the submission."""
    paths = RunPaths(run)
    stages = plan_from_json(read_record(paths).plan).stages
    found = {str(stage.ref): read_finished(paths.stage(stage.ref)).checkpoint_sha256 for stage in stages}
    files = [*paths.members.glob("*/predictions/*.npy"), *paths.submission.glob("submission.*")]
    return found | {str(path.relative_to(run)): atomic.sha256_of(path) for path in files}


@pytest.mark.slow
def test_longer_constant_schedule_continues_to_the_bits_of_as_many_epochs_from_the_start(launch, tmp_path, capsys):
    assert launch("run", "schedule=constant", "schedule.epochs=1") == 0
    before = digests(tmp_path / "run")
    assert launch("run", "schedule=constant", "schedule.epochs=2") == 0
    assert launch("whole", "schedule=constant", "schedule.epochs=2") == 0
    longer = digests(tmp_path / "run")
    assert longer == digests(tmp_path / "whole")
    assert all(longer[key] != before[key] for key in before)
    ledger = read_ledger(RunPaths(tmp_path / "run").ledger)
    assert [entry.attempts[-1].resumed_from for entry in ledger.stages.values()] == [NUM_UPDATES, NUM_UPDATES]
    capsys.readouterr()
    assert main(["verify", "run"]) == 0
    assert main(["clean", "run"]) == 0
    assert launch("run", "schedule=constant", "schedule.epochs=3") == 6
    assert "`septet clean` deleted what training on needs" in capsys.readouterr().err
    assert launch("run", "schedule=constant", "schedule.epochs=2") == 0
    assert launch("run", "schedule=constant", "schedule.epochs=1") == 6
