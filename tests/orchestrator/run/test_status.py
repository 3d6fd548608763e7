"""How a run stands, read from files that a driver and its workers leave."""

import json
import time
from dataclasses import asdict, replace

import pytest
from fake_stages import make_plan, make_record, make_stage

from orchestrator.cluster.interface import Where
from orchestrator.plan.model import PredictJob, TrainJob
from orchestrator.run import status_reader
from orchestrator.run.holder import lock
from orchestrator.run.ledger import AttemptEnd, Entry, Ledger, State, read_ledger
from orchestrator.run.metrics import Point
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import write_record
from orchestrator.run.status import (
    Course,
    RunStatus,
    course_of,
    pace,
    read_course,
    stage_line,
    stage_status,
    status_json,
    status_lines,
)
from orchestrator.run.status_reader import StatusReader, read_status
from workers.errors import DataError
from workers.protocol import StageResult
from workers.settings.training import OptimizerSettings, Recipe, ScheduleSettings
from workers.storage import atomic
from workers.storage.finished import write_finished

_STAGES = tuple(
    replace(make_stage(name, images=200, optimizer=OptimizerSettings(batch_size=10)), num_updates=100)
    for name in ("base-1/target", "base-2/target")
)
_JOBS = tuple(TrainJob(stage.ref) for stage in _STAGES)
_FIRST = _STAGES[0].ref


@pytest.fixture
def run(tmp_path):
    """A run of two stages of 100 updates of 10 images, in which nothing has happened yet."""
    paths = RunPaths(tmp_path / "digits-ffffffff")
    write_record(paths, make_record(make_plan(*_STAGES)))
    return paths


def _point(step, time_s, **metrics):
    return Point(step, step / 20, time_s, metrics)


def _write_metrics(path, points, torn=""):
    atomic.write_text(path, "".join(json.dumps(asdict(point)) + "\n" for point in points) + torn)


def _start(run, started=1000.0):
    ledger = Ledger(run.ledger)
    ledger.set_state(State.running)
    ledger.begin(_JOBS[0], started=started, resumed_from=0)
    return ledger


def _finish(run, num_updates):
    result = StageResult(num_updates, 0, "step", "0", dev_error=0.2, val_error=0.25, at_chance=False)
    write_finished(run.stage(_FIRST), _STAGES[0].hash, result)


def _read_held(run):
    with lock(run):
        return read_status(run)


def test_status_of_a_folder_that_is_no_run_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="run directory"):
        read_status(RunPaths(tmp_path))


def test_status_before_anything_started_is_waiting_in_lines_and_as_json(run):
    status = read_status(run)
    assert (status.state, status.share, status.remaining_s) == (State.waiting, 0.0, None)
    lines = status_lines(status)
    assert lines[0].startswith("digits-ffffffff: waiting, 0%")
    assert [line.split()[:2] for line in lines[1:]] == [["base-1/target", "waiting"], ["base-2/target", "waiting"]]
    document = json.loads(json.dumps(status_json(status)))
    wanted = "member stage state step num_updates val_error images_per_second data_wait remaining_s error"
    assert document["state"] == "waiting"
    assert all(set(wanted.split()) <= set(stage) for stage in document["stages"])


def test_status_of_a_held_run_has_latest_values_and_of_one_that_nobody_holds_is_interrupted(run):
    _start(run, started=1000.0)
    points = [
        _point(10, 100.0, images_per_second=1.0),  # an earlier attempt, long ago
        _point(20, 1000.0, **{"val/top1_error": 0.5, "images_per_second": 40.0}),
        _point(40, 1010.0, images_per_second=50.0, data_wait=0.25),
    ]
    _write_metrics(run.metrics(_FIRST), points)
    stage = _read_held(run).stages[0]
    assert (stage.state, stage.step, stage.epoch) == (State.running, 40, 2.0)
    assert (stage.val_error, stage.images_per_second, stage.data_wait) == (0.5, 50.0, 0.25)
    assert "50 images/s  25% waiting for data" in stage_line(stage)
    assert stage.remaining_s == pytest.approx(60 / 2.0)
    status = read_status(run)
    assert (status.state, status.stages[0].state, status.stages[0].remaining_s) == (*[State.interrupted] * 2, None)


def test_status_of_a_finished_stage_comes_from_its_done_file(run):
    _start(run)
    _finish(run, 96)
    status = read_status(run)
    assert (status.stages[0].state, status.stages[0].step, status.stages[0].val_error) == (State.done, 96, 0.25)
    assert (status.num_done, status.share) == (1, 0.5)


def test_status_of_a_stage_that_may_end_early_says_the_most_that_is_left():
    stage = replace(_STAGES[0], recipe=Recipe(schedule=ScheduleSettings(stop_when_stalled=True)))
    running = _running(Course(step=40, epoch=2.0, images_per_second=20.0, updates_per_second=2.0), stage)
    assert running.may_end_early
    assert stage_line(running).endswith("at most 30 s left")
    assert pace(RunStatus("run", State.running, (running,)))[-1] == "at most 30 s left"
    done = replace(running, state=State.done)
    surely = replace(running, may_end_early=False)
    assert pace(RunStatus("run", State.running, (done, surely)))[-1] == "30 s left"


def test_status_of_a_stage_or_predictions_that_failed_tells_the_last_error(run):
    ledger = _start(run)
    ledger.end(_JOBS[0], AttemptEnd.failed, State.failed, error="loss became NaN")
    ledger.set_state(State.failed)
    assert (read_status(run).state, read_status(run).stages[0].error) == (State.failed, "loss became NaN")
    assert "loss became NaN" in status_lines(read_status(run))[1]
    ledger.end(_JOBS[0], AttemptEnd.done, State.done)
    _finish(run, 100)
    ledger.begin(PredictJob(_FIRST), started=2000.0, resumed_from=0)
    ledger.end(PredictJob(_FIRST), AttemptEnd.failed, State.waiting, error="RuntimeError: once")
    assert [stage.error for stage in read_status(run).stages] == [None, None], "it is tried again"
    ledger.begin(PredictJob(_FIRST), started=2001.0, resumed_from=0)
    ledger.end(PredictJob(_FIRST), AttemptEnd.failed, State.failed, error="CheckFailed: not finite")
    status = read_status(run)
    assert [stage.error for stage in status.stages] == ["predictions: CheckFailed: not finite", None]
    assert status.stages[0].state is State.done
    assert "predictions: CheckFailed: not finite" in status_lines(status)[1]


def test_status_of_the_whole_run_estimates_the_rest_at_the_rate_of_all_stages_and_flags_chance(run):
    ledger = _start(run)
    ledger.begin(_JOBS[1], started=1000.0, resumed_from=0)
    _write_metrics(run.metrics(_STAGES[0].ref), [_point(0, 1000.0), _point(20, 1010.0, at_chance=1.0)])
    _write_metrics(run.metrics(_STAGES[1].ref), [_point(0, 1000.0), _point(20, 1010.0)])
    status = _read_held(run)
    assert status.share == pytest.approx(0.2)
    assert status.remaining_s == pytest.approx(160 / 4.0)
    assert [stage.at_chance for stage in status.stages] == [True, False]
    assert ["STILL AT CHANCE" in line for line in status_lines(status)[1:]] == [True, False]


def test_course_of_a_long_file_finds_the_validation_error_far_from_its_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    points = [_point(1, 0.0, **{"val/top1_error": 0.75}), *(_point(n, float(n), loss=1.0) for n in range(2, 5000))]
    _write_metrics(path, points)
    assert path.stat().st_size > 300_000
    course = read_course(path)
    assert (course.step, course.val_error) == (4999, 0.75)


def test_course_with_a_torn_last_line_is_that_of_the_lines_before_and_of_no_file_empty(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_course(path) == course_of([])
    _write_metrics(path, [_point(1, 0.0), _point(2, 1.0)], torn='{"step": 3, "epo')
    assert read_course(path) == course_of([_point(1, 0.0), _point(2, 1.0)])


def _rates(*rates):
    return [_point(step, 100.0 + step, images_per_second=rate) for step, rate in enumerate(rates, start=1)]


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ((100, 100, 100, 100, 30), "is down to 30% of its usual rate"),
        ((100, 100, 100, 100, 60), ""),
        ((100, 100, 100, 30), ""),
        ((30, 30, 30, 30, 30), ""),
    ],
)
def test_straggler_is_told_by_its_own_usual_rate(rates, said):
    status = _running(course_of(_rates(*rates)))
    assert "; ".join(status.remarks) == said
    assert said in stage_line(status)


def test_rates_of_an_earlier_attempt_are_not_what_is_usual():
    assert course_of(_rates(100, 100, 100, 100, 100, 30), since=105.5).share_of_usual_rate is None


def test_nan_that_was_passed_is_in_the_line_and_in_the_document():
    status = replace(_running(Course(step=3)), passed_nans=(7, 9))
    assert "met NaN at update 7, 9, but not when replayed" in stage_line(status)
    document = status_json(RunStatus("r", State.running, (status,)))
    assert document["stages"][0]["passed_nans"] == (7, 9)


def test_status_says_where_a_stage_runs_and_which_nodes_are_not_used(run):
    where = Where("w1", "10.0.0.1", 7, "CPU", "1")
    ledger, job = _start(run), _JOBS[0]
    ledger.place(job, where)
    ledger.leave_out({"2": "left out: node w2 (10.0.0.2): it lacks compiled kernels"})
    status = _read_held(run)
    first, *_, last = status_lines(status)[1:]
    assert first.endswith("on w1 (10.0.0.1), pid 7, CPU") and last.startswith("left out: node w2")
    stage = status_json(status)["stages"][0]
    assert (stage["node"], stage["where"]["pid"]) == ("w1", 7)
    assert status_json(status)["stages"][1]["node"] is None
    ledger.end(job, AttemptEnd.failed, State.failed, error="OSError: a cable")
    assert "on w1 (10.0.0.1)  OSError" in stage_line(_read_held(run).stages[0])


def _running(course, stage=_STAGES[0]):
    return stage_status(stage, entry=Entry(state=State.running), course=course, finished=None, locked=True)


def test_reader_sees_each_change_and_reads_a_stage_again_only_when_something_changed(run, monkeypatch):
    reader, read = StatusReader(run), []
    real = status_reader.read_course
    monkeypatch.setattr(status_reader, "read_course", lambda path, since: read.append(path) or real(path, since))
    with lock(run):
        assert reader.read() == read_status(run)
        ledger = _start(run)
        assert reader.read() == read_status(run)
        read.clear()
        _write_metrics(run.metrics(_FIRST), [_point(10, 1000.0)])
        assert reader.read().stages[0].step == 10
        assert read == [run.metrics(_FIRST)], "the other stage waits still"
        _finish(run, 96)
        ledger.end(_JOBS[0], AttemptEnd.done, State.done)
        assert reader.read().stages[0].state is State.done
        read.clear()
        assert reader.read().stages[0].val_error == 0.25
        assert read == []
    write_record(run, make_record(make_plan(replace(_STAGES[0], num_updates=500), _STAGES[1])))
    assert reader.read().stages[0].num_updates == 500
    run.run_json.unlink()
    with pytest.raises(DataError, match="run directory"):
        reader.read()


def test_stage_without_a_machine_waits_for_one_until_it_has_its_place(run):
    ledger = Ledger(run.ledger)
    ledger.begin(_JOBS[0], started=0.0, resumed_from=0, state=State.waiting)
    first = read_status(run).stages[0]
    assert (first.state, first.waits_for_machine) == (State.waiting, False), "no launch holds the run"
    with lock(run):
        first, second = read_status(run).stages
        assert "waiting for a machine" in stage_line(first) and first.waits_for_machine
        assert status_json(read_status(run))["stages"][0]["waits_for_machine"] is True
        assert not second.waits_for_machine, "it has not begun"
        ledger.place(_JOBS[0], Where("w", "10.0.0.1", 7, "CPU", "1"))
        first = read_status(run).stages[0]
        assert (first.state, first.waits_for_machine) == (State.running, False)


def test_status_of_a_running_launch_says_how_much_of_its_budget_is_left(run):
    ends = time.time() + 3 * 3600 + 610
    Ledger(run.ledger, budget_ends=ends).set_state(State.running)
    with lock(run):
        found = read_status(run)
    assert found.budget_left_s == pytest.approx(ends - time.time(), abs=5)
    assert status_lines(found)[0].endswith(", budget: 3 h 10 min left")
    assert status_json(found)["budget_left_s"] == found.budget_left_s
    assert read_status(run).budget_left_s is None, "its driver is gone"
    assert read_ledger(run.ledger).budget_ends == ends


def test_status_says_how_many_workers_a_stage_has_if_several(run):
    ledger = Ledger(run.ledger)
    ledger.set_state(State.running)
    ledger.begin(_JOBS[0], started=1000.0, resumed_from=0, width=2)
    ledger.begin(_JOBS[1], started=1000.0, resumed_from=0)
    status = read_status(run)
    assert ["2 workers" in stage_line(stage) for stage in status.stages] == [True, False]
    assert "workers" not in stage_line(status.stages[1])
    assert [stage["width"] for stage in status_json(status)["stages"]] == [2, 1]
