"""From stored predictions to table, scores.json, submission and report."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from record_committed import record_committed

from orchestrator.config.schema import CombineConfig, CombineMethod, SubmissionConfig, SubmissionFormat
from orchestrator.outputs import rebuild_report, write_results
from orchestrator.report.curves import read_curves
from orchestrator.run.paths import RunPaths
from workers.errors import CheckFailed, DataError, MemberFailed

pytestmark = pytest.mark.usefixtures("no_drawing")
MEAN = CombineConfig()
PROBABILITIES = SubmissionConfig(SubmissionFormat.probabilities)


def finish(run, combine=MEAN, submission=PROBABILITIES):
    return write_results(run.paths, run.plan, combine, submission)


def scores_of(run):
    return json.loads((run.paths.report / "scores.json").read_text())


def stored(run, member, split):
    return np.load(run.paths.predictions(member) / f"{split}.npy")


def submitted(run):
    with (run.paths.submission / "submission.csv").open(newline="") as file:
        return np.array([line[1:] for line in csv.reader(file)][1:], dtype=np.float32)


@pytest.fixture
def run(tmp_path, make_run):
    return make_run(tmp_path / "run")


def test_write_results_submission_is_the_mean_of_all_members(run):
    finish(run)
    wanted = np.mean([stored(run, member, "test").astype(np.float64) for member in run.plan.members], axis=0)
    np.testing.assert_allclose(submitted(run), wanted, rtol=2e-7)


def test_write_results_scores_follow_the_paper_rows(run):
    results = finish(run)
    scores = scores_of(run)
    labels = np.load(run.paths.data / "val.labels.npy")
    own = {member: (stored(run, member, "val").argmax(axis=1) != labels).mean() for member in run.plan.members}
    assert (scores["split"], scores["num_images"], scores["num_classes"]) == ("val", 80, 12)
    assert {name: value["top1_error"] for name, value in scores["members"].items()} == pytest.approx(own)
    rows = {row["name"]: row for row in scores["rows"]}
    assert list(rows) == ["1 CNN", "3 CNNs", "1 CNN*", "4 CNNs*"]
    base = ["base3", "base1", "base2"]
    assert rows["1 CNN"]["members"] == base
    assert rows["1 CNN"]["top1_error"] == pytest.approx(np.mean([own[member] for member in base]))
    averaged = np.mean([stored(run, member, "val") for member in base], axis=0)
    assert rows["3 CNNs"]["top1_error"] == pytest.approx((averaged.argmax(axis=1) != labels).mean())
    assert rows["1 CNN*"]["top1_error"] == pytest.approx(own["deep1"])
    ensemble = scores["ensemble"]
    assert all(ensemble[name] == rows["4 CNNs*"][name] for name in ("top1_error", "top5_error", "nll"))
    assert set(ensemble) == {"top1_error", "top5_error", "nll", "ece", "disagreement"}
    assert results.ensemble == pytest.approx(ensemble)
    assert ensemble["nll"] < rows["1 CNN"]["nll"]
    assert scores["splits"] == {}


def test_write_results_labelled_test_is_the_main_split_and_val_beside_it(tmp_path, make_run):
    run = make_run(tmp_path / "run", labelled=("dev", "val", "test"))
    finish(run)
    scores = scores_of(run)
    assert scores["split"] == "test"
    assert set(scores["splits"]) == {"val"}
    assert set(scores["splits"]["val"]) == set(scores) - {"splits"}
    assert "## val: 80 images" in (run.paths.report / "table.md").read_text()


def test_write_results_no_test_split_submits_val(tmp_path, make_run):
    run = make_run(tmp_path / "run", splits=("dev", "val"))
    finish(run)
    assert json.loads((run.paths.submission / "manifest.json").read_text())["split"] == "val"
    assert len(submitted(run)) == 80


@pytest.mark.parametrize("method", list(CombineMethod))
def test_write_results_members_listed_in_another_order_same_submission_bytes(tmp_path, make_run, method):
    run = make_run(tmp_path / "run")
    first = finish(run, CombineConfig(method))
    before = first.submission.read_bytes()
    reordered = replace(run.plan, members=run.plan.members[::-1])
    write_results(run.paths, reordered, CombineConfig(method), PROBABILITIES)
    assert first.submission.read_bytes() == before


def test_write_results_weighted_is_searched_on_dev_and_recorded(run):
    text = finish(run, CombineConfig(CombineMethod.weighted)).table_text
    manifest = json.loads((run.paths.submission / "manifest.json").read_text())
    assert (manifest["method"], manifest["weights_searched_on"], manifest["weights_note"]) == ("weighted", "dev", None)
    assert sum(manifest["weights"].values()) == pytest.approx(1)
    assert "ensemble, weighted" in text
    wanted = sum(weight * stored(run, name, "test") for name, weight in manifest["weights"].items())
    np.testing.assert_allclose(submitted(run), wanted, rtol=1e-5)


def test_write_results_weighted_without_dev_falls_back_to_val_and_says_so(tmp_path, make_run):
    run = make_run(tmp_path / "run", splits=("val", "test"), labelled=("val",))
    text = finish(run, CombineConfig(CombineMethod.weighted)).table_text
    manifest = json.loads((run.paths.submission / "manifest.json").read_text())
    assert manifest["weights_searched_on"] == "val"
    assert "searched on val" in manifest["weights_note"]
    assert "searched on val" in text
    assert "dev_fraction is 0" in text


def test_write_results_member_at_chance_is_marked_wherever_it_counts(tmp_path, make_run):
    run = make_run(tmp_path / "run", at_chance=("base1",))
    lines = finish(run).table_text.splitlines()
    assert [line.split("  ")[0] for line in lines if "†" in line] == ["1 CNN †", "3 CNNs †", "4 CNNs* †", lines[-1]]
    assert "base1, which was still at chance" in lines[-1]
    assert "† at chance" in (run.paths.report / "index.html").read_text()


def test_write_results_unreadable_test_images_are_uniform(tmp_path, make_run):
    run = make_run(tmp_path / "run", unreadable=(3,))
    results = finish(run)
    said = "UNREADABLE: 1 test image could not be read and got uniform probabilities: test_003.png"
    assert said in results.table_text.splitlines()
    for name in ("index.html", "table.md"):
        assert said in (run.paths.report / name).read_text()
    assert results.num_unreadable == {"test": 1}
    np.testing.assert_allclose(submitted(run)[3], 1 / 12, rtol=1e-6)
    assert json.loads((run.paths.submission / "manifest.json").read_text())["unreadable"] == ["test_003.png"]


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("predictions/val.npy", "member base2: no predictions of val"),
        # The mean does without them, but `septet verify` does not.
        ("predictions/dev.npy", "member base2: no predictions of dev"),
        ("train/DONE.json", "base2: its last stage train is not finished.*septet launch"),
    ],
)
def test_write_results_missing_member_writes_nothing(run, gone, said):
    (run.paths.members / "base2" / gone).unlink()
    with pytest.raises(MemberFailed, match=said):
        finish(run)
    assert not run.paths.submission.exists()
    assert not run.paths.report.exists()


def test_write_results_predictions_of_an_older_checkpoint_are_refused(run):
    done = run.paths.done(run.plan.last_stage("base1").ref)
    done.write_text(done.read_text().replace("sha-base1", "sha-newer"))
    record_committed(run.paths, run.plan)
    with pytest.raises(CheckFailed, match=r"base1: .*another checkpoint"):
        finish(run)


def test_write_results_before_any_launch_is_a_data_error(run, tmp_path):
    with pytest.raises(DataError, match="septet launch"):
        write_results(RunPaths(tmp_path), run.plan, MEAN, PROBABILITIES)


def test_write_results_without_models_still_submits_and_reports(run):
    for model in run.paths.root.rglob("model.safetensors"):
        model.unlink()
    results = finish(run)
    assert "First-layer kernels" not in (run.paths.report / "index.html").read_text()
    assert not [path for path in results.files if path.name.startswith("conv1")]


def test_rebuild_report_keeps_the_submission_and_its_method(run):
    finish(run, CombineConfig(CombineMethod.geometric))
    scores = scores_of(run)
    content = (run.paths.submission / "submission.csv").read_bytes()
    (run.paths.report / "scores.json").unlink()
    results = rebuild_report(run.paths, run.plan, MEAN)
    assert results.submission is None
    assert scores_of(run) == scores
    assert (run.paths.submission / "submission.csv").read_bytes() == content


def test_read_curves_stages_follow_each_other(run):
    curves = {curve.member: curve for curve in read_curves(run.paths, run.plan)}
    assert curves["base1"].starts == ()
    assert curves["deep1"].starts == (10.0,)
    assert curves["deep1"].val.epochs == tuple(float(epoch) for epoch in range(1, 21))
    assert len(curves["deep1"].train.errors) == 20
