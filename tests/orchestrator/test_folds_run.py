"""A run in folds, from the launch to `verify`: two recipes, two folds, one of them pre-trained on a superset."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from pictures import write_tree
from record_committed import record_committed
from small_folds import launch
from whole_run import alter_predictions

from orchestrator import launching
from orchestrator.cli.program import main
from orchestrator.combine.outside import store_outside
from orchestrator.config.schema import CombineConfig, CombineMethod, SubmissionConfig
from orchestrator.opened import open_members
from orchestrator.outputs import write_results
from orchestrator.plan import OutsideFile, plan_from_json, plan_to_json
from orchestrator.run import RunPaths, open_book, read_record, read_run_data, require_same_folds
from orchestrator.run.record import write_record
from orchestrator.submission import read_manifest
from orchestrator.verification.run import verify
from workers.errors import CheckFailed, ConfigError, MemberFailed, RunMismatch
from workers.storage import sha256_of

pytestmark = pytest.mark.usefixtures("no_drawing")
LABELS = SubmissionConfig()


@pytest.fixture(scope="module")
def launched(no_drawing, tmp_path_factory):
    place = tmp_path_factory.mktemp("folds")
    assert launch(place) == 0
    return place


@pytest.fixture
def run(launched, tmp_path):
    """A copy of the finished run."""
    shutil.copytree(launched / "run", tmp_path / "run")
    return RunPaths(tmp_path / "run")


def plan_of(paths):
    return plan_from_json(read_record(paths).plan)


def results(paths, method=CombineMethod.mean, **words):
    return write_results(paths, plan_of(paths), CombineConfig(method, **words), LABELS)


def scores_of(paths):
    return json.loads(paths.report_scores.read_text())


def oof(paths, member):
    return np.load(paths.predictions(member) / "oof.npy")


def test_members_of_a_recipe_predict_each_training_image_once(run):
    data, plan = read_run_data(run.data), plan_of(run)
    assert set(plan.members) == {"base1-f0", "base1-f1", "deep1-f0", "deep1-f1"}
    labels = data.labels("oof")
    for recipe in ("base1", "deep1"):
        rows = np.concatenate([data.rows_of(plan.fold(f"{recipe}-f{number}")) for number in range(2)])
        assert sorted(rows.tolist()) == list(range(len(labels)))
        assert sum(len(oof(run, f"{recipe}-f{number}")) for number in range(2)) == len(labels)
    for label in range(10):
        assert np.ptp(np.bincount(data.folds[labels == label, 0], minlength=2)) <= 1
    assert plan.stage(plan.last_stages["deep1-f1"]).init_from.member == "deep1-f1"


def test_recipes_are_scored_out_of_fold_in_scores_and_table(run):
    text = results(run).table_text
    data, plan = read_run_data(run.data), plan_of(run)
    every = np.empty((len(data.labels("oof")), 10), np.float32)
    for number in range(2):
        every[data.rows_of(plan.fold(f"deep1-f{number}"))] = oof(run, f"deep1-f{number}")
    wrong = (every.argmax(axis=1) != data.labels("oof")).mean()
    found = scores_of(run)
    assert (found["split"], list(found["splits"])) == ("test", ["oof"])
    assert list(found["members"]) == ["base1-f0", "base1-f1", "deep1-f0", "deep1-f1"]
    unseen = found["splits"]["oof"]
    assert list(unseen["members"]) == ["base1", "deep1"]
    assert unseen["members"]["deep1"]["top1_error"] == pytest.approx(wrong)
    assert [row["name"] for row in unseen["rows"]] == ["1 CNN", "1 CNN*", "2 CNNs*"]
    assert f"deep1 {100 * wrong:.2f} %" in next(line for line in text.splitlines() if line.startswith("OUT OF FOLD"))
    assert "## oof:" in run.report_table.read_text()


@pytest.mark.parametrize("method", [CombineMethod.weighted, CombineMethod.greedy, CombineMethod.stacked])
def test_fits_look_at_out_of_fold_rows_and_share_a_recipes_weight(run, method):
    results(run, method)
    manifest = json.loads(run.submission_manifest.read_text())
    assert (manifest["fit"]["split"], manifest["fit"]["num_images"]) == (
        "oof",
        len(read_run_data(run.data).labels("oof")),
    )
    weights = manifest["weights"]
    assert weights["base1-f0"] == weights["base1-f1"] and weights["deep1-f0"] == weights["deep1-f1"]
    if manifest["method"] != "stacked":
        assert sum(weights.values()) == pytest.approx(1)
    found = verify(run)
    assert found.ok and found.rebuilt, found.problems


def test_weights_of_one_recipe_are_not_fitted(run):
    with pytest.raises(ConfigError, match="combine=weighted: the folds have one recipe, so there is nothing to weigh"):
        results(run, CombineMethod.weighted, without=("base1-f0", "base1-f1"))


def test_without_a_member_of_a_fold_nothing_is_scored_out_of_fold_and_fits_look_at_dev(run):
    text = results(run, CombineMethod.weighted, without=("base1-f0",)).table_text
    assert "OUT OF FOLD: not scored, since that needs the members of all folds." in text
    assert json.loads(run.submission_manifest.read_text())["fit"]["split"] == "dev"
    assert scores_of(run)["splits"] == {}
    assert verify(run).ok


def test_recipes_names_stand_for_their_members_in_weights_and_without(run):
    results(run, weights={"base1": 0, "deep1-f1": 2})
    weights = json.loads(run.submission_manifest.read_text())["weights"]
    assert weights == {"base1-f0": 0, "base1-f1": 0, "deep1-f0": pytest.approx(1 / 3), "deep1-f1": pytest.approx(2 / 3)}
    assert verify(run).ok
    results(run, without=("base1",))
    assert set(read_manifest(run).weights) == {"deep1-f0", "deep1-f1"}


@pytest.mark.slow
def test_mean_that_is_kept_beside_a_member_from_outside_is_the_plain_mean(run, tmp_path):
    """A recipe is one voter of a fit; but the mean that a fit is compared with, and kept, is that of all members."""
    data, files = read_run_data(run.data), {}
    for split in ("test", "dev", "oof"):
        path = tmp_path / f"{split}.npy"
        np.save(path, np.full((len(data.splits[split].rows), 10), 0.1, np.float32))
        files[split] = OutsideFile(str(path), sha256_of(path))
    plan = plan_of(run)
    plan = replace(plan, members=(*plan.members, "other"), outside={"other": files})
    write_record(run, replace(read_record(run), plan=plan_to_json(plan)))
    store_outside(run, plan, data, open_book(run))
    results(run)
    mean = next(run.submission.glob("submission.*")).read_bytes()
    results(run, CombineMethod.greedy)
    manifest = read_manifest(run)
    assert (manifest.fit.split, manifest.fit.is_taken) == ("oof", False)
    assert set(manifest.weights.values()) == {0.2}
    assert next(run.submission.glob("submission.*")).read_bytes() == mean
    assert verify(run).ok


def test_no_member_of_a_fold_is_said_to_be_dropped(run):
    """One that is always wrong: without it, its recipe would have no out-of-fold predictions."""
    path, labels = run.predictions("base1-f0") / "test.npy", read_run_data(run.data).labels("test")
    np.save(path, np.eye(10, dtype=np.float32)[(labels + 1) % 10])
    about = path.with_suffix(".json")
    about.write_text(json.dumps(json.loads(about.read_text()) | {"sha256": sha256_of(path)}))
    record_committed(run, plan_of(run))
    assert "DROP" not in results(run).table_text
    assert scores_of(run)["worth"]["members"]["base1-f0"]["without"]["high"] < 0


def test_run_in_folds_verifies_and_launched_again_trains_nothing(launched, run, capsys):
    found = verify(run)
    assert found.ok and found.rebuilt
    assert found.checked["files of predictions"] == 4 * 3
    assert launch(launched) == 0
    assert "running" not in capsys.readouterr().err.replace("run: running", "")


def test_out_of_fold_predictions_that_are_wrong_or_missing_are_refused(run, tmp_path):
    alter_predictions(run, "deep1-f1", "oof")
    assert any("deep1-f1" in one.what and "altered" in one.what for one in verify(run).problems)
    with pytest.raises(CheckFailed, match=r"deep1-f1: .*oof.npy was altered since it was committed"):
        results(run)
    shutil.copy(run.predictions("deep1-f0") / "oof.npy", run.predictions("deep1-f1"))
    shutil.copy(run.predictions("deep1-f0") / "oof.json", run.predictions("deep1-f1"))
    record_committed(run, plan_of(run))
    with pytest.raises(CheckFailed, match=r"deep1-f1: .*oof.npy is of other images than data/oof.rows.txt"):
        results(run)
    (run.predictions("deep1-f1") / "oof.json").unlink()
    with pytest.raises(MemberFailed, match=r"deep1-f1: no predictions of oof"):
        results(run)
    assert any("no predictions of oof" in one.what for one in verify(run).problems)


def test_other_folds_in_data_are_told(run):
    folds = np.load(run.data / "folds.npy")
    np.save(run.data / "folds.npy", 1 - folds)
    with pytest.raises(CheckFailed, match=r"folds.npy was altered since it was committed"):
        open_members(run, plan_of(run), open_book(run).committed)


def test_other_folds_than_those_of_the_members_are_refused_at_launch(run):
    """As after a change of the images that --accept-changes let pass; more divisions may come."""
    folds = read_run_data(run.data).folds
    require_same_folds(run.data, np.concatenate([folds, folds], axis=1))
    for other in (1 - folds, folds[1:], None):
        with pytest.raises(
            RunMismatch, match="have other folds now than the members of this run; give another run_dir"
        ):
            require_same_folds(run.data, other)


@pytest.mark.slow
def test_names_of_recipes_change_no_byte_of_a_fit(run, tmp_path):
    """base1 becomes z: members are sorted by their predictions, and so are voters."""
    results(run, CombineMethod.stacked)
    written = next(run.submission.glob("submission.*")).read_bytes()
    plan = plan_of(run)
    swapped = {"base1": "zz"}
    names = {member: member.replace("base1", swapped["base1"]) for member in plan.members}
    record = read_record(run)
    text = json.dumps(record.plan)
    for old, new in names.items():
        (run.members / old).rename(run.members / new)
        text = text.replace(f'"{old}"', f'"{new}"').replace(f'"{old}/', f'"{new}/')
    plan = plan_from_json(json.loads(text))
    record_committed(run, plan)
    write_results(run, plan, CombineConfig(CombineMethod.stacked), LABELS)
    assert next(run.submission.glob("submission.*")).read_bytes() == written


@pytest.mark.parametrize(
    ("split", "why"),
    [
        ("train", "without test and val, it needs the members of all folds"),
        ("test", "combine.calibration=temperature: .*, nor are there out-of-fold predictions of all members; give"),
    ],
)
def test_member_that_failed_is_named_where_nothing_can_be_submitted_without_it(
    tmp_path, capsys, monkeypatch, split, why
):
    names = {f"train/{name}/{index}.png" for name in "ab" for index in range(9)}
    names |= {f"{split}/{name}/{index}.png" for name in "ab" for index in range(9, 11)}
    root = write_tree(tmp_path / "images", {name: number for number, name in enumerate(sorted(names))})
    train = launching._train

    def losing(config, plan, run, *rest):
        train(config, plan, run, *rest)
        (run.paths.predictions("base1-f1") / "oof.json").unlink()
        return MemberFailed("base1-f1/train: the disk burned")

    monkeypatch.setattr(launching, "_train", losing)
    data = ("dataset@datasets.target=folder", f"datasets.target.root={root}", "datasets.target.size=32")
    words = (*data, "datasets.target.dev_fraction=0", "ensemble=folds", "schedule=cosine", "submission.min_members=1")
    assert launch(tmp_path, *words, "combine.calibration=temperature") == 4
    assert re.search(rf"base1-f1/train: the disk burned; no submission: .*{why}", capsys.readouterr().err)


def test_without_test_and_val_the_submission_is_out_of_fold_and_the_table_scores_it(tmp_path, capsys):
    files = {f"train/{name}/{index}.png": 20 * place + index for place, name in enumerate("ab") for index in range(9)}
    root = write_tree(tmp_path / "images", files)
    data = ("dataset@datasets.target=folder", f"datasets.target.root={root}", "datasets.target.size=32")
    words = (*data, "datasets.target.dev_fraction=0", "ensemble=folds", "schedule=cosine")
    assert launch(tmp_path, *words) == 0
    assert "oof: 18 images, 2 classes" in capsys.readouterr().out
    paths = RunPaths(tmp_path / "run")
    manifest = json.loads(paths.submission_manifest.read_text())
    assert (manifest["split"], manifest["num_rows"], len(manifest["members"])) == ("oof", 18, 2)
    assert verify(paths).rebuilt and verify(paths).ok
    assert scores_of(paths)["split"] == "oof"
    assert main(["explain", str(paths.root), "a/0.png"]) == 3
    assert "has out-of-fold predictions, each of some members" in capsys.readouterr().err
    assert main(["predict", str(paths.root), str(root / "train" / "a" / "0.png")]) == 0
    with pytest.raises(MemberFailed, match="no submission: without test and val, it needs the members of all folds"):
        results(paths, without=("base1-f1",))
