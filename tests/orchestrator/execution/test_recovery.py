"""What the driver makes of files that were altered or damaged, and of members that meet a NaN."""

import json
import shutil

import numpy as np
import pytest
from book_in_memory import book_in_memory
from driver_run import SEVEN, Run
from fake_stages import NUM_UPDATES, plan_of, weights_sha256

from orchestrator.plan.model import StageRef
from orchestrator.run.ledger import AttemptEnd, Budgets
from workers.errors import CheckFailed, Diverged, MemberFailed
from workers.storage.atomic import sha256_of


@pytest.fixture
def seven(tmp_path):
    return Run(tmp_path, plan_of(SEVEN))


def alter_predictions(run):
    """Other numbers, and a description that fits them."""
    array, about = (run.paths.predictions("base1") / f"test.{end}" for end in ("npy", "json"))
    np.save(array, np.load(array)[:, ::-1] * np.float32([0.5, 1.5]))
    about.write_text(json.dumps({**json.loads(about.read_text()), "sha256": sha256_of(array)}))


def test_driver_notes_the_digests_of_what_it_commits(seven):
    assert seven.launch()
    committed = seven.book.committed
    assert committed.stages == {str(ref): weights_sha256(ref) for ref in seven.plan.by_ref}
    files = {path: sha256_of(path) for path in seven.root.rglob("*.npy")}
    noted = {
        seven.paths.predictions(member) / f"{split}.npy": digest
        for member, own in committed.predictions.items()
        for split, digest in own.items()
    }
    assert noted == files and len(files) == 14


def test_driver_predicts_again_what_was_altered_together_with_its_description(seven):
    assert seven.launch()
    alter_predictions(seven)
    assert seven.launch()
    assert seven.fakes.started == ["base1/predictions"]


def test_driver_predicts_again_what_a_driver_was_killed_before_it_could_record(seven):
    assert seven.launch()
    committed = seven.book.committed
    seven.book = book_in_memory()
    stages = {StageRef.parse(name): sha256 for name, sha256 in committed.stages.items()}
    others = ("base0", "base2", "base3", "base4", "wide0", "wide1")
    seven.book.results(stages, {member: committed.predictions[member] for member in others})
    assert seven.launch()
    assert seven.fakes.started == ["base1/predictions"]
    assert seven.book.committed == committed


def test_driver_refuses_a_finished_stage_that_is_not_the_one_it_committed(seven):
    assert seven.launch()
    done = seven.paths.done(StageRef("base1", "train"))
    done.write_text(done.read_text().replace(weights_sha256("base1/train"), "another"))
    with pytest.raises(CheckFailed, match=r"base1/train: the checkpoint .* was altered since it was committed"):
        seven.launch()


def test_driver_killed_between_the_note_and_done_json_goes_on(seven, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.execution.driver.write_finished", killed)
        with pytest.raises(KeyboardInterrupt):
            seven.launch()
    assert len(seven.book.committed.stages) == 1
    assert seven.launch()
    assert len(seven.book.committed.stages) == len(seven.plan.stages)


def _final(run, ref):
    return run.paths.checkpoints(StageRef.parse(ref)) / f"step-{NUM_UPDATES:08d}"


def test_driver_goes_back_a_checkpoint_where_a_finished_one_is_damaged(seven):
    seven.fail_once("base1/predictions", "wide0/fine")
    for ref in ("base0/train", "base1/train", "wide0/pre", "wide1/pre"):
        (_final(seven, ref) / "model.safetensors").write_bytes(b"[]")
    real = seven.fakes.run_stage

    def run_stage(spec, should_stop):
        """Discards a damaged checkpoint first: what a real stage does when it resumes, and a fake one does not."""
        weights = spec.stage_dir / "checkpoints" / f"step-{NUM_UPDATES:08d}" / "model.safetensors"
        if weights.exists() and weights.read_bytes() == b"[]":
            shutil.rmtree(weights.parent)
        return real(spec, should_stop)

    seven.fakes.run_stage = run_stage
    assert seven.launch()
    assert sorted(set(seven.fakes.started)) == [
        *("base0/predictions", "base0/train", "base1/predictions", "base1/train"),
        *("wide0/fine", "wide0/pre", "wide0/predictions", "wide1/pre"),
    ]


@pytest.mark.parametrize("others", ["none", "newer"])
def test_driver_refuses_a_damaged_finished_stage_that_no_further_update_would_repair(seven, others):
    """A fresh start would hide the loss; where the best checkpoint is damaged, the newest has nothing left to train."""
    seven.fail_once("base1/predictions")
    final = _final(seven, "base1/train")
    if others == "newer":
        shutil.copytree(final, final.with_name(f"step-{NUM_UPDATES + 1:08d}"))
    else:
        for folder in set(final.parent.iterdir()) - {final}:
            shutil.rmtree(folder)
    (final / "model.safetensors").write_bytes(b"[]")
    with pytest.raises(CheckFailed, match=r"base1/train/.*model\.safetensors differs"):
        seven.launch()
    assert seven.paths.done(StageRef("base1", "train")).exists()


@pytest.mark.parametrize("others", ["kept", "none"])
def test_damaged_average_is_made_again_from_the_last_checkpoint_if_that_is_left(seven, others):
    seven.fail_once("base1/predictions")
    final, done = _final(seven, "base1/train"), seven.paths.done(StageRef("base1", "train"))
    averaged = final.rename(final.with_name(f"averaged-{NUM_UPDATES:08d}"))
    done.write_text(done.read_text().replace(final.name, averaged.name))
    (averaged / "model.safetensors").write_bytes(b"[]")
    if others == "none":
        for folder in set(final.parent.iterdir()) - {averaged}:
            shutil.rmtree(folder)
        with pytest.raises(CheckFailed, match=r"base1/train/.*averaged-"):
            seven.launch()
        assert done.exists()
    else:
        assert seven.launch()
        assert "base1/train" in seven.fakes.started


def test_driver_refuses_a_finished_stage_whose_weights_were_replaced_together_with_their_manifest(seven):
    assert seven.launch()
    shutil.copytree(_final(seven, "base0/train"), _final(seven, "base1/train"), dirs_exist_ok=True)
    with pytest.raises(CheckFailed, match=r"base1/train: the checkpoint .* was altered since it was committed"):
        seven.launch()
    shutil.rmtree(_final(seven, "base1/train"))
    assert seven.launch(), "deleted to save space"


def test_driver_replays_a_nan_once_an_update_and_reports_what_was_passed(seven):
    seven.budgets = Budgets(max_losses=0, max_failures=0)
    seven.fakes.script = {"base0/train": [(5, Diverged("update 5: nan", step=5)), (8, Diverged("nan", step=8))]}
    assert seven.launch()
    assert seven.outcomes("base0/train") == [AttemptEnd.diverged, AttemptEnd.diverged, AttemptEnd.done]
    assert seven.ledger.stages["base0/train"].passed_nans == (5, 8)
    assert ("base0/train", "septet.passed_nan", "5") in seven.tracker.tags
    assert ("base0/train", "septet.passed_nan", "5, 8") in seven.tracker.tags
    assert "base0" in seven.cluster.discarded, "a process that met a NaN was used again"


def test_driver_that_meets_a_nan_at_the_same_update_again_gives_up_with_the_budget_unspent(seven):
    seven.fakes.script = {"base0/train": [(5, Diverged("update 5: loss nan", step=5))] * 9}
    with pytest.raises(MemberFailed, match=r"base0/train: update 5: loss nan \(again after a replay"):
        seven.launch()
    assert seven.outcomes("base0/train") == [AttemptEnd.diverged] * 2
    assert seven.ledger.stages["base0/train"].open_nans == (5,)
