"""How a run went: the mean of members that begin and end apart, and attempts and checkpoints as the ledger has them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from orchestrator.cluster import Where
from orchestrator.plan import PredictJob, StageRef, TrainJob
from orchestrator.report import course as module
from orchestrator.report.course import course, mean_curve, schedule
from orchestrator.run import AttemptEnd, Ledger, State

HERE = Where("vm", "10.0.0.1", 42, "cuda:1", "n1")


def test_mean_curve_begins_with_the_last_member_and_keeps_those_that_ended():
    assert mean_curve([{1: 0.8, 2: 0.4}, {2: 0.2, 3: 0.0}]) == {2: pytest.approx(0.3), 3: pytest.approx(0.2)}


@pytest.mark.parametrize("members", [[], [{1: 0.8}], [{1: 0.8}, {}]])
def test_mean_curve_of_one_or_of_a_member_without_values_is_empty(members):
    assert mean_curve(members) == {}


@pytest.fixture
def drawn(monkeypatch):
    """What the figures are asked to draw, by name."""
    asked = {}
    monkeypatch.setattr(module, "lines_chart", lambda name, *rest: asked.update({name: rest}) or name)
    monkeypatch.setattr(module, "schedule_chart", lambda name, *rest: asked.update({name: rest}) or name)
    return asked


@pytest.fixture
def run(tmp_path, make_run):
    made = make_run(tmp_path / "run", base=("base1", "base2"))
    return SimpleNamespace(paths=made.paths, plan=made.plan)


def test_course_draws_what_the_run_measured_and_the_mean_of_last_stages(run, drawn):
    assert course(run).drawings == ("train_top1_error", "val_top1_error")
    axis, label, lines, kinds, starts = drawn["val_top1_error"]
    assert (axis, label, kinds, starts) == ("epoch", "top-1 error on val, %", [False, False, True], {10.0})
    assert list(lines) == ["base1", "base2", "deep1", "mean of members"]
    # deep1's second stage begins after ten epochs, when the others have ended.
    mean = lines["mean of members"]
    assert list(mean) == list(range(11, 21))
    assert mean[20] == pytest.approx((lines["base1"][10] + lines["base2"][10] + lines["deep1"][20]) / 3)


def test_course_between_the_ends_of_epochs_leaves_out_means_of_a_part_of_one(run, drawn):
    path = run.paths.metrics(StageRef("base1", "train"))
    part = {"step": 1, "epoch": 1.5, "time": 1.5, "metrics": {"train/top1_error": 0.99}}
    path.write_text(path.read_text() + json.dumps(part) + "\n")
    course(run)
    assert 1.5 not in drawn["train_top1_error"][2]["base1"]


def test_course_without_metrics_is_left_out(run, drawn):
    for stage in run.plan.stages:
        run.paths.metrics(stage.ref).unlink()
    assert course(run) is None and schedule(run) is None and not drawn


def write_ledger(run, launches):
    """Each launch is a list of (job, start, end, outcome); its members' metrics last from 1 to 10 s."""
    now = [0.0]
    for attempts in launches:
        ledger = Ledger(run.paths.ledger, clock=lambda: now[0])
        for job, start, end, outcome in attempts:
            ledger.begin(job, started=start, resumed_from=0)
            now[0] = start
            ledger.place(job, HERE)
            now[0] = end
            if outcome is not None:
                error = "Lost: its node is gone" if outcome is AttemptEnd.lost else ""
                ledger.end(job, outcome, State.done, error=error)


BASE1, DEEP1 = StageRef("base1", "train"), StageRef("deep1", "pretrain")


def test_schedule_bars_say_kind_place_end_and_checkpoints(run, drawn):
    jobs = [(TrainJob(BASE1), 0.0, 4.0, AttemptEnd.lost), (TrainJob(BASE1), 5.0, 12.0, AttemptEnd.done)]
    jobs += [(PredictJob(BASE1), 12.0, 13.0, AttemptEnd.done), (TrainJob(DEEP1), 0.0, 11.0, AttemptEnd.stopped)]
    write_ledger(run, [jobs])
    assert schedule(run).drawings == ("schedule_1",)
    stretches, caption = drawn["schedule_1"]
    assert [(one.row, one.kind, one.begin, one.end) for one in stretches] == [
        ("base1", "failed", 0.0, 4.0),
        ("base1", "last stage", 5.0, 12.0),
        ("base1", "kept checkpoint", 10.0, 10.0),
        ("deep1", "cut short", 0.0, 11.0),
        ("deep1", "kept checkpoint", 10.0, 10.0),
        ("base1", "prediction", 12.0, 13.0),
    ]
    assert stretches[0].text == (
        "base1/train: attempt 1, 4 s on vm (10.0.0.1), pid 42, cuda:1; lost Lost: its node is gone"
    )
    assert "a row a member: 4 attempts, 1 failed" in caption


def test_schedule_of_a_driver_that_died_ends_where_its_metrics_do(run, drawn):
    write_ledger(run, [[(TrainJob(BASE1), 2.0, 0.0, None)], [(TrainJob(BASE1), 6.5, 12.0, AttemptEnd.done)]])
    assert schedule(run).drawings == ("schedule_1", "schedule_2")
    ((first,), _), ((second, mark), _) = drawn["schedule_1"], drawn["schedule_2"]
    assert (first.kind, first.begin, first.end) == ("cut short", 2.0, 6.0)
    assert (second.end, mark.kind, mark.begin) == (12.0, "kept checkpoint", 10.0)


def test_schedule_of_more_members_than_fit_has_a_row_a_device(run, drawn, monkeypatch):
    monkeypatch.setattr(module, "_MOST_ROWS", 1)
    write_ledger(run, [[(TrainJob(ref), 0.0, 4.0, AttemptEnd.done) for ref in (BASE1, DEEP1)]])
    schedule(run)
    stretches, caption = drawn["schedule_1"]
    assert {one.row for one in stretches} == {"vm (10.0.0.1), cuda:1"} and "a row a device" in caption


def test_schedule_table_has_medians_of_speed_and_wait(run, drawn):
    times = [{"images_per_second": rate, "data_wait": wait} for rate, wait in ((10, 0.5), (3000, 0.02), (3100, 0.01))]
    points = [{"step": n, "epoch": n / 2, "time": float(n), "metrics": one} for n, one in enumerate(times)]
    run.paths.metrics(BASE1).write_text("".join(json.dumps(point) + "\n" for point in points))
    (table,) = schedule(run).tables
    assert table.lines == (("base1", "3,000", "2.0%"),)


def write_answers(run, ref, epoch, guesses, labels=(0, 1, 0, 1)):
    """A net that is sure of `guesses`, with a probability for each of two classes."""
    path = run.paths.stage(ref) / "answers" / f"val-{epoch}.npz"
    path.parent.mkdir(exist_ok=True)
    sure = np.array([[1 - guess, guess] for guess in guesses], np.float16)
    np.savez(path, probabilities=sure, labels=np.array(labels))


def test_course_ensemble_is_the_mean_of_the_newest_answers_of_last_stages(run, drawn):
    write_answers(run, BASE1, 9, (0.9, 0.9, 0.9, 0.9))
    write_answers(run, BASE1, 10, (0.1, 0.9, 0.9, 0.9))
    write_answers(run, StageRef("base2", "train"), 10, (0.2, 0.2, 0.2, 0.6))
    write_answers(run, DEEP1, 10, (0.1, 0.9, 0.1, 0.9))
    deep = StageRef("deep1", "finetune")
    write_answers(run, deep, 1, (0.1, 0.1, 0.3, 0.9))
    write_answers(run, deep, 2, (0.1, 0.8, 0.3, 0.9))
    course(run)
    # Means of the first epoch: 0.13, 0.40, 0.47, 0.80; its second image is wrong.
    assert drawn["val_top1_error"][2]["the ensemble"] == {11: 0.25, 12: 0.0}
    assert "the ensemble" not in drawn["train_top1_error"][2]


@pytest.mark.parametrize("labels", [None, (0, 1, 1, 1)])
def test_course_without_answers_of_all_members_to_the_same_images_has_no_ensemble(run, drawn, labels):
    write_answers(run, BASE1, 10, (0.1, 0.9, 0.9, 0.9))
    write_answers(run, StageRef("base2", "train"), 10, (0.2, 0.2, 0.2, 0.6))
    if labels:
        write_answers(run, StageRef("deep1", "finetune"), 1, (0.2, 0.2, 0.2, 0.6), labels)
    course(run)
    assert "the ensemble" not in drawn["val_top1_error"][2]
