"""What an actor is told of a refit: its first pass's cuts and best epoch, the same at every launch."""

from dataclasses import replace
from pathlib import Path

import pytest
from fake_stages import make_plan, make_stage

from orchestrator.execution.jobs import Work
from orchestrator.plan.model import StageRef
from orchestrator.run import Budgets, RunPaths
from workers.errors import DataError
from workers.protocol import Numerics, StageResult
from workers.settings import Decay, KeptCheckpoint, ScheduleSettings
from workers.storage import write_finished
from workers.training.schedule import ScheduleState, after_epoch

PLATEAU = ScheduleSettings(epochs=90, stop_when_stalled=True)
FIRST = StageRef("a", "train")


def work_of(root: Path, schedule: ScheduleSettings) -> Work:
    refit = replace(make_stage("a/refit", schedule=schedule, refit="train"), refit=FIRST)
    plan = make_plan(make_stage("a/train", schedule=schedule), refit)
    return Work(RunPaths(root), plan, {"target": root}, "", (), Numerics(), KeptCheckpoint.best, 10, Budgets(1, 1))


def spec_of(work: Work, **found):
    result = StageResult(450, 0, "step-00000450", "0", 0.2, 0.2, at_chance=False, **found)
    write_finished(work.paths.stage(FIRST), "hash", result)
    return work.stage_spec(work.plan.stages[1], 1)


def test_refit_replays_the_cuts_of_a_plateau_and_ends_at_its_best_epoch(tmp_path):
    spec = spec_of(work_of(tmp_path, PLATEAU), best_epochs=41, cut_at=(13, 29))
    schedule = spec.recipe.schedule
    assert (spec.until, schedule.decay, schedule.epochs, schedule.looks) == (41, Decay.fixed, 90, False)
    state = ScheduleState()
    for _ in range(41):
        state = after_epoch(state, 1.0, schedule, learnt_below=0.9)
    assert state.cut_at == (13, 29)
    assert spec.init_dir is None
    assert spec == work_of(tmp_path, PLATEAU).stage_spec(work_of(tmp_path, PLATEAU).plan.stages[1], 1)


def test_specs_carry_the_launch_s_code(tmp_path):
    work = replace(work_of(tmp_path, PLATEAU), code="c" * 64)
    assert work.stage_spec(work.plan.stages[0], 0).code == work.predict_spec("a").code == "c" * 64


def test_neighbours_are_found_by_the_first_combined_member_alone(tmp_path):
    plan = make_plan(make_stage("a/train"), make_stage("b/train"))
    work = replace(work_of(tmp_path, PLATEAU), plan=plan)
    assert [bool(work.predict_spec(member).neighbours) for member in "ab"] == [True, False]
    work = replace(work, without=("a",))
    assert [bool(work.predict_spec(member).neighbours) for member in "ab"] == [False, True]


def test_refit_of_another_schedule_keeps_its_course(tmp_path):
    cosine = ScheduleSettings(decay=Decay.cosine, cuts=0, latest=(), epochs=90)
    spec = spec_of(work_of(tmp_path, cosine), best_epochs=80)
    assert (spec.recipe.schedule, spec.until) == (cosine, 80)


def test_refit_of_a_first_pass_without_a_recorded_best_epoch_is_refused(tmp_path):
    with pytest.raises(DataError, match="recorded no best epoch; give another run_dir"):
        spec_of(work_of(tmp_path, PLATEAU))
