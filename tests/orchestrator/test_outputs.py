"""From stored predictions to table, scores.json, submission and report."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import whole_run
from pyarrow.parquet import read_table
from record_committed import record_committed
from whole_run import write_predictions

from orchestrator.config.schema import (
    Calibrator,
    CombineConfig,
    CombineMethod,
    Metric,
    SubmissionConfig,
    SubmissionFormat,
)
from orchestrator.outputs import rebuild_report, write_results
from orchestrator.report.curves import read_curves
from orchestrator.run.paths import RunPaths
from workers.errors import CheckFailed, ConfigError, DataError, MemberFailed
from workers.settings import ScheduleSettings

pytestmark = pytest.mark.usefixtures("no_drawing")
MEAN = CombineConfig()
GREEDY = CombineConfig(CombineMethod.greedy)
PROBABILITIES = SubmissionConfig(SubmissionFormat.probabilities)


def finish(run, combine=MEAN, submission=PROBABILITIES, metric=None):
    return write_results(run.paths, run.plan, combine, submission, metric=metric)


def spoil(run, member):
    """Makes a member's predictions of dev those of other images."""
    write_predictions(run.paths, member, "dev", stored(run, member, "dev")[::-1])
    record_committed(run.paths, run.plan)


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
    assert set(scores["splits"]["val"]) == set(scores) - {"splits", "worth"}
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


@pytest.mark.parametrize("method", CombineMethod)
def test_write_results_renamed_members_have_the_same_submission_bytes(tmp_path, make_run, method):
    """`build_run` draws members in the order of their names' list, so another name gets the same predictions."""
    first = make_run(tmp_path / "first", base=("base3", "base1", "base2"))
    renamed = make_run(tmp_path / "renamed", base=("a", "z", "m"))
    written = [finish(run, CombineConfig(method)).submission.read_bytes() for run in (first, renamed)]
    assert written[0] == written[1]


def test_write_results_says_what_each_member_is_worth(run):
    finish(run, metric=Metric.top1)
    scores = scores_of(run)
    worth, ensemble = scores["worth"], scores["ensemble"]["top1_error"]
    assert (worth["metric"], worth["num_images"], worth["loss"]) == ("top1", 80, pytest.approx(ensemble))
    values = {name: one["shapley"]["estimate"] for name, one in worth["members"].items()}
    assert set(values) == set(run.plan.members)
    assert sum(values.values()) == pytest.approx(worth["empty"] - ensemble, abs=1e-12)
    assert worth["core_seconds"] == dict.fromkeys(values)
    for name in ("table.md", "index.html"):
        assert "What each member is worth" in (run.paths.report / name).read_text()
    with (run.paths.report / "figures" / "disagreement.csv").open(newline="") as file:
        (_, *names), *lines = list(csv.reader(file))
    matrix = np.array([line[1:] for line in lines], dtype=float)
    assert [line[0] for line in lines] == names == list(scores["members"])
    off = matrix[np.triu_indices(len(names), 1)]
    assert off.mean() == pytest.approx(scores["ensemble"]["disagreement"], abs=1e-6)
    correlation = (run.paths.report / "figures" / "error_correlation.csv").read_text().splitlines()
    assert len(correlation) == 5 and correlation[1].split(",")[1] == "1.000000"


def test_write_results_tells_of_a_member_that_should_be_dropped(run):
    assert "DROP" not in finish(run, metric=Metric.top1).table_text
    probabilities = np.full_like(stored(run, "base1", "val"), 1e-6)
    labels = np.load(run.paths.data / "val.labels.npy")
    probabilities[np.arange(len(labels)), (labels + 1) % 12] = 1 - 11e-6
    write_predictions(run.paths, "base1", "val", probabilities)
    record_committed(run.paths, run.plan)
    text = finish(run, metric=Metric.top1).table_text
    assert "DROP: without base1" in text and "combine.without=[base1]" in text


def test_write_results_of_one_member_have_no_worth(tmp_path, make_run):
    run = make_run(tmp_path / "run", base=("base1",), pretrained=())
    finish(run)
    assert "worth" not in scores_of(run)
    assert "What each member is worth" not in (run.paths.report / "index.html").read_text()
    assert not (run.paths.report / "figures" / "disagreement.csv").exists()


def test_write_results_renamed_members_are_worth_the_same(tmp_path, make_run):
    worths = []
    for place, base in enumerate((("base3", "base1", "base2"), ("a", "z", "m"))):
        run = make_run(tmp_path / str(place), base=base)
        finish(run)
        names = dict(zip((*base, "deep1"), range(4), strict=True))
        worth = scores_of(run)["worth"]
        members = {names[name]: value for name, value in worth["members"].items()}
        worths.append((members, [{**one, "added": names[one["added"]]} for one in worth["curve"]]))
    assert worths[0] == worths[1]


def test_write_results_weighted_without_dev_falls_back_to_val_and_says_so(tmp_path, make_run):
    run = make_run(tmp_path / "run", splits=("val", "test"), labelled=("val",))
    text = finish(run, CombineConfig(CombineMethod.weighted)).table_text
    manifest = json.loads((run.paths.submission / "manifest.json").read_text())
    assert manifest["weights_searched_on"] == "val"
    assert "fitted on val" in manifest["weights_note"]
    assert "fitted on val" in text
    assert "dev_fraction is 0" in text


def test_write_results_without_a_labelled_image_submits_and_reports_no_errors(tmp_path, make_run):
    run = make_run(tmp_path / "run", splits=("test",), labelled=(), at_chance=("base1",))
    results = finish(run)
    assert results.table_text.splitlines()[0].startswith("No labelled image is held out of training")
    assert (len(submitted(run)), results.ensemble, results.members) == (80, {}, {})
    assert "dev_fraction is 0" not in results.table_text
    assert {path.name for path in results.files} >= {"index.html", "table.md", "learning_curves.png"}
    assert not run.paths.report_scores.exists()
    page = run.paths.report_page.read_text()
    assert "No labelled image is held out" in page and "base1 <span" in page and "top-1 error" not in page
    assert rebuild_report(run.paths, run.plan, MEAN, Metric.top1).table_text == results.table_text
    with pytest.raises(ConfigError, match="combine=weighted: is fitted on dev or val, and neither is held out; give"):
        finish(run, CombineConfig(CombineMethod.weighted))


def test_write_results_labelled_test_alone_is_scored_and_val_chose_nothing(tmp_path, make_run):
    run = make_run(tmp_path / "run", splits=("test",), labelled=("test",))
    text = finish(run).table_text
    assert text.startswith("test: 80 images") and "dev_fraction is 0" not in text


def test_write_results_val_chose_nothing_where_no_setting_looks(tmp_path, make_run):
    run = make_run(tmp_path / "run", splits=("val", "test"), labelled=("val",))
    assert "dev_fraction is 0" in finish(run).table_text
    constant = ScheduleSettings(cuts=0, latest=())
    stages = tuple(replace(one, recipe=replace(one.recipe, schedule=constant)) for one in run.plan.stages)
    run = replace(run, plan=replace(run.plan, stages=stages))
    assert "dev_fraction is 0" not in finish(run).table_text


def with_refit(run):
    """The run, as if deep1's last stage had trained again on dev and val what its first one found."""
    first, last = (stage.ref for stage in run.plan.stages_of("deep1"))
    stages = tuple(
        replace(one, init_from=None, refit=first, recipe=replace(one.recipe, refit="pretrain"))
        if one.ref == last
        else one
        for one in run.plan.stages
    )
    return replace(run, plan=replace(run.plan, stages=stages))


@pytest.mark.parametrize(("labelled", "scored"), [(("dev", "val", "test"), ["test"]), (("dev", "val"), [])])
def test_write_results_with_a_refit_has_no_errors_on_what_it_trained_on(tmp_path, make_run, labelled, scored):
    run = make_run(tmp_path / "run", labelled=labelled)
    finish(run)
    run = with_refit(run)
    results = finish(run)
    said = "REFIT on dev and val, which are not scored (val error of the first pass): deep1 (20.0%)"
    assert said in results.table_text.splitlines()
    assert said in run.paths.report_page.read_text() and said in run.paths.report_table.read_text()
    splits = [scores_of(run)["split"], *scores_of(run)["splits"]] if run.paths.report_scores.exists() else []
    assert splits == scored
    assert "val:" not in results.table_text
    assert json.loads((run.paths.submission / "manifest.json").read_text())["split"] == "test"
    with pytest.raises(ConfigError, match="combine=weighted: is fitted on dev or val, and deep1 trained on them; give"):
        finish(run, CombineConfig(CombineMethod.weighted))
    weighted = finish(run, CombineConfig(CombineMethod.weighted, without=("deep1",)))
    assert weighted.table_text.startswith("test" if scored else "val"), "without the refit val is held out again"


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


def manifest_of(run):
    return json.loads((run.paths.submission / "manifest.json").read_text())


def understate(run, power=0.3):
    """Makes every member less sure than it could be."""
    for member in run.plan.members:
        for split in ("dev", "val", "test"):
            rows = stored(run, member, split) ** power
            write_predictions(run.paths, member, split, rows / rows.sum(axis=1, keepdims=True))
    record_committed(run.paths, run.plan)


CALIBRATED = [one for one in Calibrator if one is not Calibrator.none]


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


def test_rebuild_report_keeps_the_submission_and_its_method(run):
    finish(run, CombineConfig(CombineMethod.geometric))
    scores = scores_of(run)
    content = (run.paths.submission / "submission.csv").read_bytes()
    (run.paths.report / "scores.json").unlink()
    results = rebuild_report(run.paths, run.plan, MEAN, Metric.log_loss)
    assert results.submission is None
    assert scores_of(run) == scores
    assert (run.paths.submission / "submission.csv").read_bytes() == content


def test_read_curves_stages_follow_each_other(run):
    curves = {curve.member: curve for curve in read_curves(run.paths, run.plan)}
    assert curves["base1"].starts == ()
    assert curves["deep1"].starts == (10.0,)
    assert curves["deep1"].val.epochs == tuple(float(epoch) for epoch in range(1, 21))
    assert len(curves["deep1"].train.errors) == 20


def test_note_of_a_fit_on_val_is_only_there_if_the_fit_is_used(tmp_path, make_run):
    run = make_run(tmp_path / "run", splits=("val",), labelled=("val",))
    assert "greedy was fitted on val, so its errors are too optimistic" in finish(run, GREEDY).table_text
    text = finish(run, CombineConfig(CombineMethod.stacked)).table_text
    assert "so the plain mean is kept" in text
    assert "too optimistic" not in text


def test_fit_to_a_single_image_is_refused(tmp_path, make_run, monkeypatch):
    monkeypatch.setattr(whole_run, "NUM_ROWS", 1)
    run = make_run(tmp_path / "run")
    with pytest.raises(DataError, match="combine=greedy: dev has one image, and fits need two or more"):
        finish(run, GREEDY)
    finish(run)
