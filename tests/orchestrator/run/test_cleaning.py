"""`septet clean`: what only training needs goes, and every verb that reads a run finds the rest as committed."""

import json
import shutil

import numpy as np
import pytest
from whole_run import commit

from orchestrator.cli.program import main
from orchestrator.config.composition import compose
from orchestrator.config.schema import CombineConfig, SubmissionConfig
from orchestrator.run.holder import lock
from orchestrator.run.ledger import Ledger, State
from orchestrator.run.paths import RunPaths
from orchestrator.run.status import find_finished
from workers.errors import StorageError
from workers.storage import keep_weights, newest_checkpoint, read_weights, write_checkpoint

pytestmark = pytest.mark.usefixtures("no_drawing")
WEIGHTS = {"conv1.weight": np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4)}


@pytest.fixture
def run(tmp_path, make_run):
    """A finished run, of which each stage has an earlier checkpoint and one that was set aside."""
    run = make_run(tmp_path / "run")
    run.paths.config_yaml.write_text(compose([]).yaml)
    commit(run, CombineConfig(), SubmissionConfig())
    Ledger(run.paths.ledger).set_state(State.done)
    for stage in run.plan.stages:
        folder = run.paths.checkpoints(stage.ref)
        early = write_checkpoint(folder, 5, WEIGHTS, WEIGHTS, {}, {"stage_hash": "x"}).folder
        shutil.copytree(early, folder / "corrupt-000-step-00000004")
    return run


def files(paths: RunPaths):
    return {path: path.read_bytes() for path in paths.root.rglob("*") if path.is_file() and path != paths.lock}


def test_clean_leaves_the_used_weights_and_every_reader_works(run, capsys):
    paths, before = run.paths, files(run.paths)
    assert main(["clean", str(paths.root), "--dry-run"]) == 0
    assert "would free" in capsys.readouterr().out
    assert files(paths) == before
    assert main(["clean", str(paths.root)]) == 0
    after = files(paths)
    manifests = {path for path in after if path.name == "MANIFEST.json"}
    gone = sum(len(before[path]) for path in before.keys() - after.keys())
    assert f"freed {gone / 1000:.1f} KB" in capsys.readouterr().out
    for stage in run.plan.stages:
        (kept,) = paths.checkpoints(stage.ref).iterdir()
        assert {path.name for path in kept.iterdir()} == {"model.safetensors", "state.json", "MANIFEST.json"}
        assert read_weights(kept).checkpoint.model_sha256 == find_finished(paths, stage).checkpoint_sha256
    assert all(after[path] == before[path] for path in after.keys() - manifests)
    assert main(["verify", str(paths.root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rebuilt"] and found["checked"]["checkpoints"] == len(run.plan.stages)
    for words in (["status"], ["report"], ["submit"], ["explain", "test_000.png"]):
        assert main([words[0], str(paths.root), *words[1:]]) == 0
    capsys.readouterr()
    assert main(["clean", str(paths.root)]) == 0
    assert "freed 0 B" in capsys.readouterr().out


def test_clean_that_was_killed_between_manifest_and_file_is_finished_by_the_next(run):
    ref = run.plan.stages[0].ref
    folder = run.paths.checkpoints(ref)
    optimizer = (folder / "step-00000010" / "optimizer.safetensors").read_bytes()
    keep_weights(folder, "step-00000010")
    (folder / "step-00000010" / "optimizer.safetensors").write_bytes(optimizer)
    read_weights(folder / "step-00000010")
    assert keep_weights(folder, "step-00000010") == len(optimizer)
    assert not (folder / "step-00000010" / "optimizer.safetensors").exists()


def test_stage_cannot_train_on_after_clean_and_its_weights_stay_in_their_place(run):
    folder = run.paths.checkpoints(run.plan.stages[0].ref)
    keep_weights(folder, "step-00000010")
    with pytest.raises(StorageError, match="`septet clean` deleted its optimizer state"):
        newest_checkpoint(folder)
    assert [path.name for path in folder.iterdir()] == ["step-00000010"]


def test_clean_refuses_a_run_in_use_unfinished_or_damaged_and_changes_nothing(run, tmp_path, capsys):
    paths, before = run.paths, files(run.paths)
    with lock(paths):
        assert main(["clean", str(paths.root)]) == 5
    Ledger(paths.ledger).set_state(State.stopped)
    assert main(["clean", str(paths.root), "--dry-run"]) == 4
    assert "not finished" in capsys.readouterr().err
    Ledger(paths.ledger).set_state(State.done)
    done = paths.done(run.plan.stages[-1].ref)
    held = done.read_bytes()
    done.unlink()
    assert main(["clean", str(paths.root)]) == 4
    done.write_bytes(held)
    weights = paths.checkpoints(run.plan.stages[-1].ref) / "step-00000010" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert main(["clean", str(paths.root)]) == 7
    assert "differs from its sha256" in capsys.readouterr().err
    changed = {path for path, content in files(paths).items() if before.get(path) != content} - {paths.ledger}
    assert changed == {weights} and files(paths).keys() == before.keys()
    assert main(["clean", str(tmp_path / "none")]) == 3
