"""Members from outside, from the configuration to submission, report, explanation and verification."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from small_plans import SURVEYS, base, config
from whole_run import CLASSES, commit

from orchestrator.combine.outside import check_outside, store_outside
from orchestrator.config.composition import compose
from orchestrator.config.schema import (
    Calibrator,
    CombineConfig,
    CombineMethod,
    MemberConfig,
    SubmissionConfig,
    SubmissionFormat,
)
from orchestrator.finished.prediction import Asked, predict_as
from orchestrator.inputs import hash_outside
from orchestrator.outputs import rebuild_report, write_results
from orchestrator.placement.placing import Measuring, place
from orchestrator.plan.build import make_plan
from orchestrator.plan.diff import ChangeKind, compare
from orchestrator.plan.model import OutsideFile, plan_from_json, plan_to_json
from orchestrator.plan.report import make_report
from orchestrator.run.data import read_run_data
from orchestrator.run.digests import open_book
from orchestrator.run.open import Wanted, open_run
from orchestrator.run.record import read_record, write_record
from orchestrator.run.status_reader import read_status
from orchestrator.verification.explanation import explain, explanation_lines
from orchestrator.verification.run import verify
from workers.errors import ConfigError, DataError, MemberFailed, RunMismatch
from workers.settings.training import Crops, KeptCheckpoint
from workers.storage.atomic import sha256_of

pytestmark = pytest.mark.usefixtures("no_drawing")
PROBABILITIES = SubmissionConfig(SubmissionFormat.probabilities)


@pytest.fixture
def with_other(tmp_path, make_run):
    """Makes a run with a member `other`, whose files of the given splits are stored and committed."""

    def build(*splits):
        run = make_run(tmp_path / "run", labelled=("dev", "val"))
        commit(run, CombineConfig(), PROBABILITIES)
        generator, files = np.random.default_rng(3), {}
        for split in splits:
            np.save(tmp_path / f"{split}.npy", generator.dirichlet(np.full(len(CLASSES), 0.3), 80))
            path = tmp_path / f"{split}.npy"
            files[split] = OutsideFile(str(path), sha256_of(path))
        plan = replace(run.plan, members=(*run.plan.members, "other"), outside={"other": files})
        write_record(run.paths, replace(read_record(run.paths), plan=plan_to_json(plan)))
        data, book = read_run_data(run.paths.data), open_book(run.paths)
        check_outside(run.paths, plan, data, book, print)
        store_outside(run.paths, plan, data, book)
        return replace(run, plan=plan)

    return build


def finish(run, method=CombineMethod.mean, **more):
    return write_results(run.paths, run.plan, CombineConfig(method, **more), PROBABILITIES)


@pytest.mark.parametrize("method", list(CombineMethod))
def test_run_with_a_member_from_outside_is_combined_verified_and_explained(with_other, method):
    run = with_other("test", "dev", "val")
    results = finish(run, method)
    manifest = json.loads(run.paths.submission_manifest.read_text())
    (other,) = [member for member in manifest["members"] if member["name"] == "other"]
    assert (other["stage"], other["checkpoint"]) == ("", "test.npy")
    assert other["checkpoint_sha256"] == run.plan.outside["other"]["test"].sha256
    found = verify(run.paths)
    assert found.rebuilt, found.problems
    assert found.ok, found.problems
    assert rebuild_report(run.paths, run.plan, CombineConfig(), None).table_text == results.table_text
    explained = explain(run.paths, "test_003.png")
    (part,) = [member for member in explained.members if member.name == "other"]
    assert (part.from_outside, part.checkpoint) == (True, "test.npy")
    assert sum("from outside, test.npy sha256" in line for line in explanation_lines(explained)) == 1
    assert len(read_status(run.paths).stages) == 5


def test_table_has_a_row_of_the_member_and_the_mean_of_all(with_other):
    run = with_other("test", "val")
    finish(run)
    scores = json.loads(run.paths.report_scores.read_text())
    names = [row["name"] for row in scores["rows"]]
    assert names == ["1 CNN", "3 CNNs", "1 CNN*", "4 CNNs*", "other, from outside"]
    every = np.mean([np.load(run.paths.predictions(member) / "val.npy") for member in run.plan.members], axis=0)
    labels = np.load(run.paths.data / "val.labels.npy")
    assert scores["ensemble"]["top1_error"] == (every.argmax(axis=1) != labels).mean()
    assert set(scores["members"]) == set(run.plan.members)
    assert "ensemble, mean" in run.paths.report_table.read_text()


def test_split_that_the_member_lacks_has_the_scores_of_the_others(with_other):
    run = with_other("test")
    text = finish(run, weights={"other": 5, "base1": 2}).table_text
    assert "FROM OUTSIDE: other has no predictions of val, so the errors on val are of the others." in text
    assert "other has no predictions of dev, so submission/uncertainty.parquet has no prediction sets." in text
    scores = json.loads(run.paths.report_scores.read_text())
    assert "other" not in scores["members"]
    stored = {name: np.load(run.paths.predictions(name) / "val.npy") for name in run.plan.trained}
    weighted = np.average(list(stored.values()), axis=0, weights=[1 + (name == "base1") for name in stored])
    labels = np.load(run.paths.data / "val.labels.npy")
    assert scores["ensemble"]["top1_error"] == (weighted.argmax(axis=1) != labels).mean()
    assert verify(run.paths).ok


def test_split_whose_weights_are_all_of_the_member_is_not_scored(with_other):
    run = with_other("test")
    text = finish(run, weights=dict.fromkeys(run.plan.trained, 0)).table_text
    assert "other has no predictions of val, so val is not scored." in text
    assert "no errors to report" not in text
    assert not run.paths.report_scores.exists()
    assert verify(run.paths).ok


def test_fit_on_a_split_that_the_member_lacks_is_refused(with_other):
    run = with_other("test", "val")
    with pytest.raises(ConfigError, match=r"combine=greedy: is fitted on dev, of which other has nothing; give"):
        finish(run, CombineMethod.greedy)
    with pytest.raises(ConfigError, match=r"of which other has nothing; give .* or combine.calibration=none"):
        finish(run, calibration=Calibrator.temperature)
    finish(run, CombineMethod.greedy, without=("other",), calibration=Calibrator.temperature)


def test_altered_stored_predictions_are_found_and_stored_again(with_other):
    run = with_other("test")
    finish(run)
    path = run.paths.predictions("other") / "test.npy"
    np.save(path, np.load(path)[::-1])
    assert any("member other" in problem.what for problem in verify(run.paths).problems)
    store_outside(run.paths, run.plan, read_run_data(run.paths.data), open_book(run.paths))
    assert verify(run.paths).ok


def test_predict_with_a_member_from_outside_says_how_to_do_without(with_other):
    run = with_other("test")
    finish(run)
    with pytest.raises(MemberFailed, match=r"other: has predictions from files alone.*combine.without=\[other\]"):
        predict_as(Asked(run.paths, 1), [str(run.paths.run_json)], print)
    with pytest.raises(ConfigError, match=r"--member other: has predictions from files alone, none of new images; .*a"):
        predict_as(Asked(run.paths, 1, "other"), [str(run.paths.run_json)], print)


def planned(**files):
    outside = {"other": {split: OutsideFile(f"/x/{split}.npy", sha256) for split, sha256 in files.items()}}
    given = {split: file.path for split, file in outside["other"].items()}
    members = [base("a"), *([MemberConfig("other", None, {}, given)] if files else [])]
    return make_plan(config(*members), SURVEYS, outside=outside if files else {})


def test_plan_hash_covers_which_files_there_are_and_not_their_content():
    plan = planned(test="1")
    assert plan.hash == planned(test="2").hash
    assert len({plan.hash, planned(test="1", dev="1").hash, planned().hash}) == 3
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan)))) == plan
    assert (plan.members, plan.trained, plan.lacking("dev"), plan.lacking("test")) == (
        ("a", "other"),
        ("a",),
        ("other",),
        (),
    )


@pytest.mark.parametrize("gpus", [0, 1])
def test_place_of_members_from_outside_alone_measures_nothing(gpus):
    given = config(MemberConfig("other", None, {}, {"test": "/x.npy"}))
    given = replace(given, cluster=replace(given.cluster, gpus_per_member=gpus))
    plan = make_plan(given, SURVEYS, outside={"other": {"test": OutsideFile("/x.npy", "1")}})
    placed = place(given, plan, pytest.fail, Measuring.always)
    assert (placed.line, placed.options) == ("nothing to train", ())
    assert "other: from outside: test /x.npy (sha256 1)" in make_report(plan, placed.cluster, 1, {}).to_text()


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ({}, {"test": "1"}, ChangeKind.extends),
        ({"test": "1"}, {"test": "1"}, ChangeKind.same),
        ({"test": "1"}, {"test": "1", "dev": "1"}, ChangeKind.extends),
        ({"test": "1", "dev": "1"}, {"test": "1"}, ChangeKind.differs),
        ({"test": "1"}, {}, ChangeKind.differs),
    ],
)
def test_compare_files_may_be_added_and_not_removed(before, after, kind):
    change = compare(planned(**before), planned(**after))
    assert change.kind is kind
    assert not change.replaced
    if kind is ChangeKind.differs:
        assert "recorded, no longer wanted" in change.lines[0]


def test_open_run_refuses_a_changed_file_unless_it_is_accepted(tmp_path):
    def wanted(sha256):
        return Wanted(planned(test=sha256), "", KeptCheckpoint.last, "c", {}, lambda _: "", Crops.ten)

    def begin(sha256, **accept):
        with open_run(tmp_path / "run", wanted(sha256), **accept) as run:
            write_record(run.paths, run.record)
            run.commit()
            return run.record

    begin("1" * 64)
    begin("1" * 64)
    with pytest.raises(RunMismatch, match=r"the content of ensemble.members.other.predictions.test \(sha256 1{12} →"):
        begin("2" * 64)
    assert len(begin("2" * 64, accept_changes=True).accepted) == 1
    begin("2" * 64)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"dev": "1"}, "no file of test, which is submitted; give ensemble.members.other.predictions.test=FILE"),
        ({"test": "1", "oof": "1"}, "predictions.oof: target has no oof here"),
    ],
)
def test_make_plan_files_of_other_splits_are_refused(files, why):
    with pytest.raises(DataError, match=why):
        planned(**files)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("{predictions: {}}", "ensemble.members.other.predictions: names no file"),
        ("{predictions: {test: p.txt}}", "ensemble.members.other.predictions.test=p.txt: give a file that ends in"),
        ("{predictions: {tset: p.csv}}", "ensemble.members.other.predictions.tset: no such split"),
        ("{predictions: {test: p.csv}, seed: 1}", "ensemble.members.other.seed: its predictions come from files"),
        ("{seed: 1}", "ensemble.members.other.stages: a member needs a stage, or predictions"),
    ],
)
def test_compose_wrong_member_from_outside_is_refused(given, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        compose([f"ensemble.members.other={given}"])
    assert why in str(error.value).replace(f"{tmp_path}/", "")


def test_compose_paths_are_absolute_and_hashed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    composed = compose(["ensemble.members.other={predictions: {test: p.csv}}"])
    assert asdict(composed)["members"]["other"]["predictions"] == {"test": str(tmp_path / "p.csv")}
    with pytest.raises(DataError, match=r"predictions.test=.*p.csv: cannot be read \(No such file"):
        hash_outside(composed)
    (tmp_path / "p.csv").write_text("id\n")
    assert hash_outside(composed) == {
        "other": {"test": OutsideFile(str(tmp_path / "p.csv"), sha256_of(tmp_path / "p.csv"))}
    }
