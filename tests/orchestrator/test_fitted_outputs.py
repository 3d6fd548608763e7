"""Fitted combinations, calibrations and prediction sets, from stored predictions to the submission."""

import csv
import json

import numpy as np
import pytest
import whole_run
from pyarrow.parquet import read_table
from record_committed import record_committed
from whole_run import commit, finish, scores_of, stored, submitted, understate, write_predictions

from orchestrator.config.schema import (
    Calibrator,
    CombineConfig,
    CombineMethod,
    Metric,
    SubmissionConfig,
    SubmissionFormat,
)
from orchestrator.outputs import rebuild_report
from orchestrator.verification import verify
from workers.errors import ConfigError

pytestmark = pytest.mark.usefixtures("no_drawing")
MEAN = CombineConfig()

GREEDY = CombineConfig(CombineMethod.greedy)
CALIBRATED = [one for one in Calibrator if one is not Calibrator.none]


@pytest.fixture
def run(tmp_path, make_run):
    return make_run(tmp_path / "run")


def spoil(run, member):
    """Makes a member's predictions of dev those of other images."""
    write_predictions(run.paths, member, "dev", stored(run, member, "dev")[::-1])
    record_committed(run.paths, run.plan)


def test_write_results_weighted_is_fitted_on_dev_and_recorded(run):
    spoil(run, "base1")
    text = finish(run, CombineConfig(CombineMethod.weighted)).table_text
    manifest = json.loads((run.paths.submission / "manifest.json").read_text())
    assert (manifest["method"], manifest["weights_searched_on"], manifest["weights_note"]) == ("weighted", "dev", None)
    assert sum(manifest["weights"].values()) == pytest.approx(1)
    assert manifest["weights"]["base1"] == min(manifest["weights"].values())
    assert (manifest["fit"]["metric"], manifest["fit"]["num_images"]) == ("log_loss", 80)
    assert "ensemble, weighted" in text and "so weighted is used" in text
    wanted = sum(weight * stored(run, name, "test") for name, weight in manifest["weights"].items())
    np.testing.assert_allclose(submitted(run), wanted, rtol=1e-5)


def test_write_results_fit_without_a_gain_keeps_the_mean_and_says_so(run):
    mean = finish(run).submission.read_bytes()
    results = finish(run, CombineConfig(CombineMethod.greedy), metric=Metric.balanced_accuracy)
    manifest = json.loads((run.paths.submission / "manifest.json").read_text())
    assert (manifest["method"], manifest["fit"]["asked"]) == ("mean", "greedy")
    assert "combine=greedy, fitted to 80 images of dev by balanced_accuracy" in results.table_text
    assert "the plain mean is kept" in results.table_text
    assert results.submission.read_bytes() == mean


@pytest.mark.parametrize("method", [CombineMethod.mean, CombineMethod.geometric, CombineMethod.rank])
def test_write_results_weights_by_hand_are_used_and_recorded(run, method):
    results = finish(run, CombineConfig(method, weights={"base1": 0, "deep1": 2}))
    manifest = json.loads((run.paths.submission / "manifest.json").read_text())
    assert manifest["weights"] == {"base1": 0, "base2": 0.25, "base3": 0.25, "deep1": 0.5}
    assert manifest["weights_given"] == {"base1": 0, "deep1": 2}
    if method is CombineMethod.mean:
        wanted = (stored(run, "base2", "test") + stored(run, "base3", "test") + 2 * stored(run, "deep1", "test")) / 4
        np.testing.assert_allclose(submitted(run), wanted, rtol=1e-5)
    assert f"ensemble, {method}" in results.table_text


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        ({"base9": 1}, "combine.weights: the ensemble has no member base9"),
        (dict.fromkeys(("base1", "base2", "base3", "deep1"), 0), "combine.weights: all members have 0"),
    ],
)
def test_write_results_weights_by_hand_that_cannot_be_are_refused(run, weights, why):
    with pytest.raises(ConfigError, match=why):
        finish(run, CombineConfig(weights=weights))
    assert not run.paths.submission.exists()


def test_write_results_weighted_without_dev_falls_back_to_val_and_says_so(tmp_path, make_run):
    run = make_run(tmp_path / "run", splits=("val", "test"), labelled=("val",))
    text = finish(run, CombineConfig(CombineMethod.weighted)).table_text
    manifest = json.loads((run.paths.submission / "manifest.json").read_text())
    assert manifest["weights_searched_on"] == "val"
    assert "fitted on val" in manifest["weights_note"]
    assert "fitted on val" in text
    assert "dev_fraction is 0" in text


@pytest.mark.parametrize("metric", [Metric.auc, Metric.top1])
def test_write_results_rank_by_auc_says_that_it_orders_classes_and_not_images(run, metric):
    text = finish(run, CombineConfig(CombineMethod.rank), metric=metric).table_text
    assert ("combine=rank orders the classes of each image" in text) == (metric is Metric.auc)


def manifest_of(run):
    return json.loads((run.paths.submission / "manifest.json").read_text())


@pytest.mark.parametrize("method", [CombineMethod.mean, CombineMethod.geometric, CombineMethod.stacked])
@pytest.mark.parametrize("calibration", CALIBRATED)
def test_write_results_calibration_is_recorded_used_and_reported(run, method, calibration):
    understate(run)
    plain = finish(run, CombineConfig(method)).submission.read_bytes()
    assert manifest_of(run)["calibration"] is None
    results = finish(run, CombineConfig(method, calibration=calibration))
    said, scores = manifest_of(run), scores_of(run)["calibration"]
    assert said["calibration"]["split"] == said["sets"]["split"] == "dev"
    assert "fitted to 80 images of dev: cross-fitted log-loss" in results.table_text
    assert (results.submission.read_bytes() != plain) == said["calibration"]["is_taken"]
    if method is CombineMethod.mean and calibration is Calibrator.temperature:
        assert said["calibration"]["is_taken"]
        assert scores["after"]["nll"] < scores["before"]["nll"]
        assert results.ensemble["nll"] == pytest.approx(scores["after"]["nll"], rel=1e-6)
        assert (
            "Reliability of calibrated: ECE" in results.table_text
            and "ensemble, mean, temperature" in results.table_text
        )
    # The report alone, from the manifest, says the same.
    (run.paths.report / "scores.json").unlink()
    assert rebuild_report(run.paths, run.plan, MEAN, Metric.log_loss).table_text == results.table_text
    assert scores_of(run)["calibration"] == scores


def test_write_results_temperature_changes_no_first_guess(run):
    understate(run)
    labels = SubmissionConfig(SubmissionFormat.labels)
    plain = finish(run, MEAN, labels).submission.read_bytes()
    calibrated = finish(run, CombineConfig(calibration=Calibrator.temperature), labels)
    assert manifest_of(run)["calibration"]["is_taken"]
    assert calibrated.submission.read_bytes() == plain


@pytest.mark.parametrize("calibration", CALIBRATED)
def test_write_results_calibrated_with_renamed_members_has_the_same_bytes(tmp_path, make_run, calibration):
    found = []
    for name, base in (("run", ("base3", "base1", "base2")), ("renamed", ("a", "z", "m"))):
        run = make_run(tmp_path / name, base=base)
        understate(run)
        finish(run, CombineConfig(calibration=calibration))
        found.append([path.read_bytes() for path in sorted(run.paths.submission.glob("[su]*"))])
    assert found[0] == found[1]


def test_write_results_uncertainty_has_a_row_for_each_line_of_the_submission(run, tmp_path):
    rows = (run.paths.data / "test.rows.txt").read_text().split()
    template = tmp_path / "sample.csv"
    template.write_text("id,label\n" + "".join(f"{row},x\n" for row in reversed(rows)))
    finish(run, MEAN, SubmissionConfig(SubmissionFormat.labels, template=str(template)))
    table = read_table(run.paths.submission / "uncertainty.parquet").to_pydict()
    assert list(table) == ["id", "entropy", "mutual_information", "set"]
    assert table["id"] == rows[::-1]
    with (run.paths.submission / "submission.csv").open(newline="") as file:
        guesses = [line[1] for line in csv.reader(file)][1:]
    assert [one[0] for one in table["set"]] == guesses
    mean = np.mean([stored(run, member, "test").astype(np.float64) for member in run.plan.members], axis=0)[::-1]
    assert table["entropy"] == pytest.approx(-(mean * np.log(mean)).sum(axis=1), abs=1e-6)
    assert min(table["mutual_information"]) > 0
    sets = scores_of(run)["calibration"]["sets"]
    assert (sets["kind"], sets["coverage"], sets["num_images"]) == ("raps", 0.9, 80)


def test_write_results_sets_fitted_on_what_is_scored_are_told(tmp_path, make_run):
    run = make_run(tmp_path / "run", splits=("val", "test"), labelled=("val",))
    assert "Fitted to these images, so too good." in finish(run).table_text


def test_write_results_without_held_out_labels_leaves_out_the_sets_and_refuses_a_calibration(tmp_path, make_run):
    run = make_run(tmp_path / "run", splits=("test",), labelled=())
    assert "uncertainty.parquet has no prediction sets" in finish(run).table_text
    table = read_table(run.paths.submission / "uncertainty.parquet").to_pydict()
    assert set(table["set"]) == {None} and min(table["entropy"]) > 0
    before = (run.paths.submission / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match=r"combine.calibration=vector: .* give combine.calibration=none"):
        finish(run, CombineConfig(calibration=Calibrator.vector))
    assert (run.paths.submission / "manifest.json").read_bytes() == before


def test_note_of_a_fit_on_val_is_only_there_if_the_fit_is_used(tmp_path, make_run):
    run = make_run(tmp_path / "run", splits=("val",), labelled=("val",))
    assert "greedy was fitted on val, so its errors are too optimistic" in finish(run, GREEDY).table_text
    text = finish(run, CombineConfig(CombineMethod.stacked)).table_text
    assert "so the plain mean is kept" in text
    assert "too optimistic" not in text


@pytest.mark.parametrize("num_rows", [1, 3, 19])
def test_fits_to_few_images_keep_the_mean_and_say_why(tmp_path, make_run, monkeypatch, num_rows):
    monkeypatch.setattr(whole_run, "NUM_ROWS", num_rows)
    run = make_run(tmp_path / "run")
    understate(run)
    mean = finish(run).submission.read_bytes()
    results = finish(run, CombineConfig(CombineMethod.greedy, calibration=Calibrator.temperature))
    given = f"dev has {num_rows} image{'s' if num_rows > 1 else ''}, and a fit needs 20, so"
    assert f"combine=greedy: {given} the plain mean is kept." in results.table_text
    assert f"combine.calibration=temperature: {given} the uncalibrated average is kept." in results.table_text
    assert results.submission.read_bytes() == mean
    assert rebuild_report(run.paths, run.plan, MEAN, Metric.log_loss).table_text == results.table_text
    commit(run, CombineConfig(CombineMethod.greedy, calibration=Calibrator.temperature), SubmissionConfig())
    assert verify(run.paths).problems == ()
