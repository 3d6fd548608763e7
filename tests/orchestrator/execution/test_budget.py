"""A budget on a clock that jumps at each of the driver's looks: who goes first, who yields, and when all stop."""

import itertools
from dataclasses import replace

import psutil
import pytest
from driver_run import SEVEN, Run
from fake_stages import make_plan, make_stage, plan_of
from local_actors import LocalActors
from redone import redone_updates

from orchestrator.execution import driver as driver_module
from orchestrator.execution.budget import Budget, ends_at
from orchestrator.execution.pace import Pace
from orchestrator.execution.starting import Starting
from orchestrator.plan.model import Rung, TrainJob
from orchestrator.plan.widths import Widths
from orchestrator.run.ledger import AttemptEnd, Ledger, State
from workers.settings import OptimizerSettings

LOOK_S = 10.0


@pytest.fixture
def in_time(monkeypatch):
    """Makes a run's clock jump at each look, and its launches have 100 seconds."""
    monkeypatch.setattr(driver_module, "_POLL_S", 0.05)

    def limited(run):
        now = itertools.count(1000.0, LOOK_S)
        seen = [next(now)]
        run.hours, run.clock, run.show = 100 / 3600, lambda: seen[-1], lambda: seen.append(next(now))
        return run

    return limited


def test_launch_checkpoints_and_stops_before_its_budget_ends_and_the_next_redoes_nothing(tmp_path, in_time):
    run = in_time(Run(tmp_path, plan_of(SEVEN)))
    run.fakes.waiting = frozenset(map(str, run.plan.by_ref))
    begun = run.clock()
    assert not run.launch()
    assert begun + 90 <= run.clock() <= begun + 90 + 4 * LOOK_S, "a tenth is kept for the end"
    assert run.ledger.state is State.stopped and run.ledger.budget_ends == begun + 100
    assert run.outcomes("wide0/pre") == run.outcomes("wide1/pre") == [AttemptEnd.stopped]
    run.fakes.waiting, run.hours = frozenset(), None
    assert run.launch()
    assert run.ledger.budget_ends is None
    assert not any(map(redone_updates, run.ledger.stages.values()))


def test_stage_that_cannot_end_yields_its_slot_to_one_that_can_and_trains_on_after_it(tmp_path, in_time):
    stages = (make_stage("long/train", images=1000), make_stage("short/train", images=10))
    run = in_time(Run(tmp_path, make_plan(*stages), num_slots=1))
    run.fakes.waiting = frozenset({"long/train"})
    assert not run.launch()
    assert run.fakes.started == ["long/train", "short/train", "short/predictions", "long/train"]
    assert run.outcomes("long/train") == [AttemptEnd.preempted, AttemptEnd.stopped]
    assert run.outcomes("short/predictions") == [AttemptEnd.done]
    assert not any(map(redone_updates, run.ledger.stages.values()))


def test_stage_that_cannot_end_keeps_a_slot_that_nobody_needs(tmp_path, in_time):
    stages = (make_stage("long/train", images=1000), make_stage("short/train", images=10))
    run = in_time(Run(tmp_path, make_plan(*stages), num_slots=2))
    run.fakes.waiting = frozenset({"long/train"})
    assert not run.launch()
    assert run.outcomes("long/train") == [AttemptEnd.stopped]


def test_budget_leaves_the_points_of_a_halved_sweep_in_their_order(tmp_path, in_time):
    run = in_time(Run(tmp_path, make_plan(make_stage("a/train", images=1000), make_stage("b/train", images=10))))
    ledger = Ledger(run.paths.ledger, budget_ends=run.clock() + 100)
    ledger.begin(TrainJob(run.plan.stages[0].ref), started=run.clock() - 60, resumed_from=0)
    ledger.reach(TrainJob(run.plan.stages[0].ref), 1)
    for rungs, num_parts in (((), 2), ((Rung(3, 1),), 1)):
        plan = replace(run.plan, rungs=rungs)
        budget = budget_of(replace(run.work(), plan=plan), ledger, run.clock)
        assert len(budget.in_order(plan, (), (), {plan.stages[0].ref: 1}, 1)) == num_parts
        assert budget.yielding == ({"a"} if num_parts == 2 else set())


def test_nobody_yields_once_no_other_can_end(tmp_path, in_time):
    run = in_time(Run(tmp_path, make_plan(make_stage("a/train", images=1000), make_stage("b/train", images=10))))
    job = TrainJob(run.plan.stages[0].ref)
    ledger = Ledger(run.paths.ledger, budget_ends=run.clock() + 100)
    ledger.begin(job, started=run.clock() - 60, resumed_from=0)
    ledger.reach(job, 1)
    now = run.clock()
    budget = budget_of(run.work(), ledger, lambda: now)
    budget.in_order(run.plan, (), (), {job.ref: 1}, 1)
    assert budget.yielding == {"a"}
    now += 89
    assert budget.in_order(run.plan, (), (), {job.ref: 1}, 1) == (run.plan, run.plan)
    assert budget.yielding == set()


def test_stage_that_waits_for_a_decision_takes_no_slot(tmp_path, in_time):
    run = in_time(Run(tmp_path, make_plan(make_stage("a/train", images=1000), make_stage("b/train", images=10))))
    job = TrainJob(run.plan.stages[0].ref)
    ledger = Ledger(run.paths.ledger, budget_ends=run.clock() + 100)
    ledger.begin(job, started=run.clock() - 60, resumed_from=0)
    ledger.reach(job, 1)
    budget = budget_of(run.work(), ledger, run.clock)
    trainable = replace(run.plan, stages=run.plan.stages[:1])
    assert budget.in_order(trainable, (), (), {job.ref: 1}, 1) == (trainable, trainable)
    assert budget.yielding == set()


def test_budget_counts_from_the_start_of_the_process():
    assert ends_at(None) is None
    assert ends_at(2.0) == pytest.approx(psutil.Process().create_time() + 7200)


def test_without_a_budget_nothing_ends_and_nothing_goes_first(tmp_path):
    run = Run(tmp_path, plan_of(SEVEN))
    budget = budget_of(run.work(), Ledger(run.paths.ledger), run.clock)
    assert not budget.is_spent and budget.in_order(run.plan, (), (), {}, 2) == (run.plan,)


def budget_of(work, ledger, clock):
    return Budget(work, ledger, clock, Pace(work.plan, work.widths, ledger, clock))


def wide_run(tmp_path, **limits):
    """Two members of which `long` cannot end, and `short` can."""
    recipe = {"optimizer": OptimizerSettings(shards=8)}
    stages = (make_stage("long/train", images=1000, **recipe), make_stage("short/train", images=10, **recipe))
    return Run(tmp_path, make_plan(*stages), hours=100 / 3600, clock=lambda: 1000.0, **limits)


def begun(run, width):
    """A launch whose long member trains with so many workers since a minute, and has made two updates."""
    ledger, job = Ledger(run.paths.ledger, run.clock, budget_ends=run.clock() + 100), TrainJob(run.plan.stages[0].ref)
    ledger.begin(job, started=run.clock() - 60, resumed_from=0, width=width)
    ledger.reach(job, 2)
    return ledger, job


@pytest.mark.parametrize(("num_slots", "yielding"), [(4, {"long"}), (5, set())])
def test_wide_member_that_cannot_end_yields_if_its_workers_leave_no_slot(tmp_path, num_slots, yielding):
    run = wide_run(tmp_path)
    ledger, job = begun(run, 4)
    budget = budget_of(replace(run.work(), widths=Widths(1, 4)), ledger, run.clock)
    budget._decided, budget._needed = run.clock(), frozenset({run.plan.stages[1].ref})
    budget.in_order(run.plan, (), (), {job.ref: 4}, num_slots)
    assert budget.yielding == yielding


def test_stages_of_a_launch_with_widths_start_beside_those_that_have_just_been_chosen(tmp_path):
    """The long one has an attempt of an earlier launch, the short one has none."""
    run = wide_run(tmp_path)
    begun(run, 2)
    ledger = Ledger(run.paths.ledger, run.clock, budget_ends=run.clock() + 100)
    starting = Starting(replace(run.work(), widths=Widths(1, 2)), ledger, run.clock)
    short, long = TrainJob(run.plan.stages[1].ref), TrainJob(run.plan.stages[0].ref)
    for first in (long, short):
        starting.budget._decided, starting.budget._needed = run.clock(), frozenset({first.ref})
        starting._widths._looked = 0.0
        chosen = starting.choose(run.plan, (), (), (), {}, (), LocalActors(4))
        assert chosen.jobs == {short: 2, long: 2} and not chosen.changes


def test_member_that_goes_first_is_not_narrowed_for_one_that_cannot_end(tmp_path):
    run = wide_run(tmp_path)
    ledger, long = begun(run, 4)
    starting = Starting(replace(run.work(), widths=Widths(1, 4)), ledger, run.clock)
    for first, changes in ((long.ref, []), (run.plan.stages[1].ref, [])):
        starting.budget._decided, starting.budget._needed = run.clock(), frozenset({first})
        starting._widths._looked = 0.0
        assert starting.choose(run.plan, (), (), (), {long: 4}, (), LocalActors(4)).changes == changes
        assert starting.budget.yielding == (set() if first == long.ref else {"long"})


@pytest.mark.parametrize("width", [1, 4])
def test_rate_of_a_wide_member_is_that_of_one_worker(tmp_path, width):
    run = wide_run(tmp_path)
    ledger, _ = begun(run, width)
    widths = Widths(1, 4)
    budget = budget_of(replace(run.work(), widths=widths), ledger, run.clock)
    stage = run.plan.stages[0]
    wanted = 30 * widths.speed(stage, width) * (stage.num_updates - 2)
    left_s = budget._seconds(run.plan, (), {stage.ref}, 1)
    assert left_s[stage.ref] == pytest.approx(wanted)
    assert budget._seconds(run.plan, (), {stage.ref}, 4)[stage.ref] == pytest.approx(wanted / widths.speed(stage, 4))
