"""Widths of members: the share-out, the bound, and the simulation, over random plans and the published one."""

import itertools
import re
from dataclasses import dataclass, replace

import pytest
from fake_stages import make_plan, make_stage
from hypothesis import given, settings, strategies as st

from orchestrator.config.composition import compose
from orchestrator.plan.build import make_plan as plan_of_config, used_datasets
from orchestrator.plan.model import Plan, Stage, StageRef
from orchestrator.plan.report import make_report
from orchestrator.plan.schedule import estimate, lower_bound, multiply_adds, ready, remaining_path
from orchestrator.plan.widths import PAYS_S, Widths, candidates, choose, estimate_moldable, moldable_bound
from workers.data.survey import survey
from workers.errors import ConfigError
from workers.settings.training import OptimizerSettings

HOUR = 3600.0
# Widths that a brute force can try.
SMALL = Widths(1, 2, curve=((1, 1.0), (2, 1.5)))


@dataclass(frozen=True)
class Case:
    plan: Plan
    seconds: dict[StageRef, float]
    num_slots: int
    widths: Widths


def stage_of(name, parent=None, shards=8):
    return make_stage(name, parent, optimizer=OptimizerSettings(shards=shards))


@st.composite
def cases(draw, most_stages=10, most_slots=20):
    """Random forests of stages with different shards, hours long."""
    stages: list[Stage] = []
    for number in range(draw(st.integers(1, most_stages))):
        parent = draw(st.none() | st.sampled_from([str(stage.ref) for stage in stages])) if stages else None
        name = f"m{draw(st.integers(0, 5))}/s{number}"
        stages.append(stage_of(name, parent, draw(st.sampled_from([2, 3, 4, 8, 16]))))
    seconds = {stage.ref: draw(st.integers(1, 50)) * HOUR for stage in stages}
    least = draw(st.integers(1, 2))
    widths = Widths(least, draw(st.integers(max(2, least), 8)))
    return Case(make_plan(*stages), seconds, draw(st.integers(least, most_slots)), widths)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_simulation_with_widths_is_never_below_its_bound_nor_above_all_work_at_the_least_width(case):
    found = estimate_moldable(case.plan, case.seconds, case.num_slots, case.widths)
    slowest = min(case.widths.speed(stage, case.widths.least) for stage in case.plan.stages)
    assert found.lower_bound_s == moldable_bound(case.plan, case.seconds, case.num_slots, case.widths)
    assert found.makespan_s >= found.lower_bound_s * (1 - 1e-9)
    # A change costs half a minute, and each waits for a minute at least.
    assert found.makespan_s <= 1.02 * sum(case.seconds.values()) / slowest


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 8))
def test_width_one_is_todays_order_and_todays_numbers(case, num_slots):
    one = Widths()
    assert estimate_moldable(case.plan, case.seconds, num_slots, one) == estimate(case.plan, case.seconds, num_slots)
    assert moldable_bound(case.plan, case.seconds, num_slots, one) == lower_bound(case.plan, case.seconds, num_slots)
    running = [stage.ref for stage in ready(case.plan, (), (), 1)]
    for beside in ((), running):
        busy = {} if beside else dict.fromkeys(running, 1)
        left = num_slots - len(beside)
        costs = multiply_adds(case.plan)
        found = candidates(case.plan, (), busy, left, one, costs, beside)
        assert found == ready(case.plan, (), (*busy, *beside), num_slots)


def best_by_force(seconds, num_slots, widths, step):
    """The time of the best schedule that changes widths, for nothing, between steps of a fixed length."""
    speeds = {width: widths.speed(stage_of("a/s"), width) for width in widths.of(stage_of("a/s"))} | {0: 0.0}
    reached, num_steps = {tuple(seconds)}, 0
    while not any(all(left <= 1e-9 for left in lefts) for lefts in reached):
        num_steps += 1
        reached = {
            tuple(max(0.0, round(left - speeds[width] * step, 6)) for left, width in zip(lefts, chosen, strict=True))
            for lefts in reached
            for chosen in itertools.product(speeds, repeat=len(seconds))
            if sum(chosen) <= num_slots
        }
    return num_steps * step


@pytest.mark.parametrize(
    ("seconds", "num_slots"), [((4, 2), 2), ((6, 1), 2), ((3, 3, 3), 4), ((5, 2, 2), 3), ((2, 2), 8)]
)
def test_bound_is_never_above_the_best_of_all_schedules_on_a_grid(seconds, num_slots):
    plan = make_plan(*(stage_of(f"m{number}/s") for number in range(len(seconds))))
    lasting = {stage.ref: float(one) for stage, one in zip(plan.stages, seconds, strict=True)}
    best = best_by_force(tuple(map(float, seconds)), num_slots, SMALL, 0.5)
    bound = moldable_bound(plan, lasting, num_slots, SMALL)
    assert bound <= best + 1e-9
    assert bound > best - 1.0, "it is no weaker than the grid"


@pytest.mark.parametrize(
    ("num_slots", "works", "bound"),
    [
        (1, (3.0, 5.0), 8.0),  # all the work
        (2, (6.0,), 4.0),  # one member at its fastest
        (4, (3.0, 3.0), 2.0),  # both at their fastest
        (2, (6.0, 2.0), 5.0),  # speed 6/5 takes 1.4 workers, and 2/5 takes 0.4: 1.8; see below
    ],
)
def test_bound_counts_the_workers_that_a_speed_takes(num_slots, works, bound):
    plan = make_plan(*(stage_of(f"m{number}/s") for number in range(len(works))))
    seconds = dict(zip(plan.by_ref, works, strict=True))
    found = moldable_bound(plan, seconds, num_slots, SMALL)
    if works == (6.0, 2.0):
        # 1 + 2 (6 / T - 1) + 2 / T = 2, so T = 14 / 3.
        bound = 14 / 3
    assert found == pytest.approx(bound)


def test_widths_that_are_no_faster_are_left_out_and_uneven_shards_count_as_they_are():
    stage, widths = stage_of("a/s"), Widths(1, 8)
    assert widths.of(stage) == (1, 2, 3, 4, 8)
    assert [widths.speed(stage, width) for width in (1, 2, 4, 8)] == [1.0, 1.9, 3.6, 6.8]
    assert widths.speed(stage, 3) == pytest.approx(1.9 + (8 / 3 - 2) * 0.85)
    assert widths.speed(stage, 7) == widths.speed(stage, 4)
    assert widths.of(stage_of("a/s", shards=2)) == (1, 2)
    assert Widths(3, 8).of(stage) == (3, 4, 8)


def look(plan, running, num_slots, left=None, done=(), widths=None):
    widths = widths or Widths(1, 8)
    left = dict.fromkeys(plan.by_ref, HOUR) | (left or {})
    waiting = candidates(plan, done, running, num_slots, widths, left)
    return choose(plan, left, running, waiting, num_slots, widths)


def seven(hours=(75, 75, 75, 75, 75, 127, 127)):
    plan = make_plan(*(stage_of(f"m{number}/s") for number in range(len(hours))))
    return plan, {ref: hour * HOUR for ref, hour in zip(plan.by_ref, hours, strict=True)}


def test_seven_members_on_sixteen_slots_start_wide_and_fill_them():
    plan, left = seven()
    found = look(plan, {}, 16, left)
    assert min(found.starts.values()) == 2 and sum(found.starts.values()) == 16
    assert {number for number, ref in enumerate(plan.by_ref) if found.starts[ref] > 2} <= {5, 6}
    assert not found.wider and not found.narrower


def test_a_member_that_waits_narrows_the_one_that_has_most_to_give_and_no_other():
    plan, left = seven((10, 10, 10))
    wide, other, late = plan.by_ref
    found = look(plan, {wide: 4, other: 2}, 6, left)
    assert found.narrower == {wide: 2} and not found.starts and not found.wider
    after = look(plan, {wide: 2, other: 2}, 6, left)
    assert after.starts == {late: 2} and not after.narrower
    assert not look(plan, {wide: 2, other: 2, late: 2}, 6, left).narrower


def test_fewer_slots_than_workers_narrow_and_idle_slots_widen_the_slowest_where_it_pays():
    plan, left = seven((10, 20))
    short, long = plan.by_ref
    assert look(plan, {short: 2, long: 4}, 3, left).narrower == {long: 2, short: 1}
    wider = look(plan, {short: 1, long: 1}, 5, left)
    assert wider.wider == {long: 4} and not wider.narrower
    assert not look(plan, {short: 1, long: 4}, 5, left).wider, "the next look has nothing to undo"
    ending = dict.fromkeys(plan.by_ref, PAYS_S - 1)
    assert not look(plan, {short: 1, long: 1}, 5, ending).wider


def test_a_member_wider_than_all_slots_is_started_if_nothing_else_runs():
    plan, left = seven((10, 20))
    assert list(look(plan, {}, 2, left, widths=Widths(4, 8)).starts.values()) == [4]
    assert not look(plan, {plan.stages[0].ref: 4}, 2, left, widths=Widths(4, 8)).starts


@pytest.fixture(scope="module")
def published():
    config = compose(["experiment=ilsvrc2012", "optimizer.shards=8"])
    data = {name: survey(config.datasets[name], allow_absent=True) for name in used_datasets(config)}
    plan = plan_of_config(config, data)
    work = multiply_adds(plan)
    longest = max(remaining_path(plan, work).values())
    return plan, {ref: 127 * HOUR * cost / longest for ref, cost in work.items()}


@pytest.mark.parametrize(("num_slots", "share"), [(8, 78.6), (16, 39.3), (32, 19.6)])
def test_simulated_makespan_of_the_published_seven_is_near_its_bound(published, num_slots, share):
    plan, seconds = published
    assert sum(seconds.values()) / num_slots / HOUR == pytest.approx(share, abs=0.1)
    found = estimate_moldable(plan, seconds, num_slots, Widths(1, 8))
    assert found.makespan_s <= 1.1 * found.lower_bound_s
    assert estimate(plan, seconds, num_slots).makespan_s == pytest.approx(127 * HOUR)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["cluster.workers_per_member=[1,2]"], "no stage has shards to divide; give optimizer.shards=8"),
        (
            ["cluster.workers_per_member=[4,8]", "optimizer.shards=2"],
            "has optimizer.shards=2; give cluster.workers_per_member=[2,8]",
        ),
    ],
)
def test_plan_whose_stages_have_too_few_shards_for_their_workers_is_refused(overrides, words):
    config = compose(overrides)
    data = {name: survey(config.datasets[name]) for name in used_datasets(config)}
    with pytest.raises(ConfigError, match=re.escape(words)):
        plan_of_config(config, data)


def test_workers_that_would_share_a_gpu_are_refused_and_widths_change_no_hash():
    with pytest.raises(ConfigError, match="need a whole GPU each"):
        compose(["cluster.workers_per_member=[1,2]", "cluster.gpus_per_member=0.5", "optimizer.shards=8"])
    configs = [compose(["optimizer.shards=8", *more]) for more in ((), ("cluster.workers_per_member=[1,4]",))]
    assert configs[1].cluster.workers_per_member == (1, 4)
    data = {name: survey(configs[0].datasets[name]) for name in used_datasets(configs[0])}
    assert len({plan_of_config(config, data).hash for config in configs}) == 1


def test_report_says_widths_with_the_assumed_speed_ups_or_that_slots_are_idle(published):
    plan, seconds = published
    rates = {stage.ref: stage.num_images * stage.recipe.schedule.epochs / seconds[stage.ref] for stage in plan.stages}
    one = compose([]).cluster
    narrow = make_report(plan, one, 16, rates)
    assert "9 slots idle: set cluster.workers_per_member=[1,8]\n" in narrow.to_text()
    wide = make_report(plan, replace(one, workers_per_member=(1, 4)), 16, rates)
    assert "widths: 1 to 4 workers a member (speed-up 1.9, 3.6 assumed for 2, 4 workers)\n" in wide.to_text()
    assert wide.to_json()["workers_per_member"] == [1, 4]
    expected = estimate_moldable(plan, seconds, 16, Widths(1, 4)).makespan_s
    assert wide.time.makespan_s == pytest.approx(expected)
    assert wide.time.makespan_s < narrow.time.makespan_s
    assert "idle" not in make_report(plan, one, 7, rates).to_text()
