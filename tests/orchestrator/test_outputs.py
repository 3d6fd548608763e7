"""From stored predictions to table, scores.json, submission and report."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from record_committed import record_committed
from whole_run import PROBABILITIES, finish, scores_of, stored, submitted, write_predictions

from orchestrator.config.schema import (
    CombineConfig,
    CombineMethod,
    Metric,
)
from orchestrator.outputs import rebuild_report, write_results
from orchestrator.report.course import read_curves
from orchestrator.run.ledger import AttemptEnd, Ledger, State
from orchestrator.run.paths import RunPaths
from workers.errors import CheckFailed, ConfigError, DataError, MemberFailed
from workers.settings import ScheduleSettings

pytestmark = pytest.mark.usefixtures("no_drawing")
MEAN = CombineConfig()


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
    assert len(correlation) == 5 and float(correlation[1].split(",")[1]) == 1


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


def test_errors_by_members_add_them_in_the_order_in_which_they_finished(run):
    order, times = ["base2", "deep1", "base1", "base3"], iter((4.0, 1.0, 3.0, 2.0))
    ledger = Ledger(run.paths.ledger, clock=lambda: next(times))
    for member in ("base3", "base2", "base1", "deep1"):
        job = run.plan.predict_job(member)
        ledger.begin(job, started=0.0, resumed_from=0)
        ledger.end(job, AttemptEnd.done, State.done)
    results = finish(run)
    labels = np.load(run.paths.data / "val.labels.npy")
    held = [stored(run, member, "val").astype(np.float64) for member in order]
    wanted = [(sum(held[: count + 1]).argmax(axis=1) != labels).mean() for count in range(4)]
    assert len(set(wanted)) > 2
    assert results.by_members == {"val": pytest.approx(wanted)}
    assert results.by_members["val"][-1] == results.ensemble["top1_error"]


def test_write_results_without_a_labelled_image_submits_and_reports_no_errors(tmp_path, make_run):
    run = make_run(tmp_path / "run", splits=("test",), labelled=(), at_chance=("base1",))
    results = finish(run)
    assert results.table_text.splitlines()[0].startswith("No labelled image is held out of training")
    assert (len(submitted(run)), results.ensemble, results.members) == (80, {}, {})
    assert "dev_fraction is 0" not in results.table_text
    assert {path.name for path in results.files} == {"index.html", "table.md"}
    assert not run.paths.report_scores.exists()
    page = run.paths.report_page.read_text()
    assert "No labelled image is held out" in page and "base1 † at chance" in page and "top-1 error" not in page
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
    assert list(curves["deep1"].series["val/top1_error"]) == [float(epoch) for epoch in range(1, 21)]
    assert len(curves["deep1"].series["train/top1_error"]) == 20
    assert list(curves["deep1"].last("val/top1_error")) == [float(epoch) for epoch in range(11, 21)]
