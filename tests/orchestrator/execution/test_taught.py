"""The driver and a student: it waits for the predictions of its teachers, and for one that failed it does not start."""

from dataclasses import replace

import numpy as np
import pytest
from driver_run import Run
from fake_stages import make_plan, make_record, make_stage

from orchestrator.combine import STUDENT, left_out
from orchestrator.config.schema import CombineConfig
from orchestrator.plan import TrainJob
from orchestrator.run import read_status, status_lines
from orchestrator.run.ledger import State
from orchestrator.run.record import write_record
from workers.errors import MemberFailed
from workers.settings import Distil, Fold


@pytest.fixture
def run(tmp_path):
    """A student and two members of folds."""
    teachers = [make_stage(f"base1-f{number}/train", fold=Fold(2, number)) for number in range(2)]
    student = make_stage("student/train", distil=Distil(0.5))
    student = replace(student, teachers=tuple(one.ref for one in teachers))
    found = Run(tmp_path, make_plan(*teachers, student), num_slots=3)
    found.paths.data.mkdir()
    np.save(found.paths.data / "folds.npy", np.zeros((4, 1), np.int16))
    write_record(found.paths, make_record(found.plan))
    return found


@pytest.mark.parametrize("hours", [None, 1.0])
def test_student_starts_after_the_predictions_of_all_teachers(run, hours):
    run.hours = hours
    assert run.launch()
    started = run.fakes.started
    teachers = {f"base1-f{number}/predictions" for number in range(2)}
    assert teachers < set(started[: started.index("student/train")])
    assert started[-1] == "student/predictions"


def test_student_is_told_which_predictions_it_learns_from_in_the_order_of_their_sha256(run):
    assert run.launch()
    work = run.driver()._work
    spec = work.stage_spec(run.plan.stages[-1], 1)
    digests = run.book.committed.predictions
    assert spec.taught_by == sorted(digests[f"base1-f{number}"]["oof"] for number in range(2))
    assert {one.fold.number for one in spec.teachers} == {0, 1}
    assert {one.predictions.name for one in spec.teachers} == {"oof.npy"}
    assert work.stage_spec(run.plan.stages[0], 1).teachers == ()
    (run.paths.predictions("base1-f1") / "oof.npy").unlink()
    with pytest.raises(MemberFailed, match="base1-f1: no predictions of oof"):
        work.stage_spec(run.plan.stages[-1], 1)


@pytest.mark.parametrize("job", ["base1-f1/train", "base1-f1/predictions"])
def test_student_of_a_teacher_that_failed_waits_and_the_failure_is_told(run, job):
    run.fail_once(job)
    assert "student/train" not in run.fakes.started
    assert run.ledger.entry(TrainJob(run.plan.last_stages["student"])).state is State.waiting
    (line,) = (one for one in status_lines(read_status(run.paths)) if one.startswith("student"))
    assert line.endswith("waits for the predictions of base1-f1")
    (gone,) = left_out(CombineConfig(), run.plan, run.paths)
    assert gone.member == "student" and gone.why.startswith(f"{job}: ")
    assert run.launch()
    assert left_out(CombineConfig(), run.plan, run.paths)[0].why == STUDENT
    assert "waits" not in " ".join(status_lines(read_status(run.paths)))


def test_student_that_failed_leaves_the_others_complete(run):
    run.fail_once("student/train")
    assert set(run.ledger.predictions) == {"base1-f0", "base1-f1"}
    assert left_out(CombineConfig(), run.plan, run.paths)[0].why.startswith("student/train: ")
