"""Scheduling: properties that hold for every plan, over random ones."""

from dataclasses import dataclass

import pytest
from fake_stages import make_plan, make_stage
from hypothesis import given, settings, strategies as st

from orchestrator.plan.model import Plan, Stage, StageRef
from orchestrator.plan.schedule import estimate, lower_bound, multiply_adds, ready, remaining_path
from workers.models.outlines import outline
from workers.settings.training import Recipe


@dataclass(frozen=True)
class Case:
    plan: Plan
    seconds: dict[StageRef, float]
    num_slots: int


@st.composite
def cases(draw, *, one_stage_members=False):
    """Random forests of stages; each starts afresh or from any earlier stage of any member."""
    stages: list[Stage] = []
    for number in range(draw(st.integers(1, 12))):
        member = f"m{number if one_stage_members else draw(st.integers(0, 5))}"
        parent = draw(st.none() | st.sampled_from([str(stage.ref) for stage in stages])) if stages else None
        stages.append(make_stage(f"{member}/s{number}", parent))
    seconds = {stage.ref: float(draw(st.integers(1, 100))) for stage in stages}
    return Case(make_plan(*stages), seconds, draw(st.integers(1, 6)))


@settings(max_examples=100, deadline=None)
@given(cases())
def test_estimate_is_never_below_its_lower_bound(case):
    found = estimate(case.plan, case.seconds, case.num_slots)
    assert found.makespan_s >= found.lower_bound_s - 1e-9
    assert found.makespan_s <= sum(case.seconds.values()) + 1e-9


@settings(max_examples=100, deadline=None)
@given(cases(one_stage_members=True))
def test_estimate_is_within_graham_s_bound_of_the_best(case):
    found = estimate(case.plan, case.seconds, case.num_slots)
    assert found.makespan_s <= 2 * found.lower_bound_s + 1e-9


@settings(max_examples=50, deadline=None)
@given(cases())
def test_estimate_with_one_slot_is_all_the_work(case):
    found = estimate(case.plan, case.seconds, 1)
    assert found.makespan_s == found.lower_bound_s == sum(case.seconds.values())


@settings(max_examples=100, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_ready_keeps_every_rule_whatever_ends_first(case, random):
    plan, done, running, started = case.plan, set(), set(), []
    while len(done) < len(plan.stages):
        chosen = ready(plan, done, running, case.num_slots, case.seconds)
        assert chosen or running, "deadlock"
        for stage in chosen:
            assert stage.ref not in done | running
            assert stage.init_from is None or stage.init_from in done
        running |= {stage.ref for stage in chosen}
        started += [stage.ref for stage in chosen]
        members = [ref.member for ref in running]
        assert len(running) <= case.num_slots
        assert len(set(members)) == len(members)
        ended = random.choice(sorted(running))
        running.discard(ended)
        done.add(ended)
    assert sorted(started) == sorted(case.seconds)


def test_ready_starts_the_longest_chain_first():
    long, after, short = StageRef("a", "pre"), StageRef("a", "fine"), StageRef("b", "train")
    plan = make_plan(make_stage("b/train"), make_stage("a/pre"), make_stage("a/fine", "a/pre"))
    seconds = {long: 5.0, after: 6.0, short: 10.0}
    assert [stage.ref for stage in ready(plan, set(), set(), 1, seconds)] == [long]
    assert [stage.ref for stage in ready(plan, set(), set(), 3, seconds)] == [long, short]
    assert [stage.ref for stage in ready(plan, {long}, {short}, 2, seconds)] == [after]
    assert ready(plan, {long}, {short}, 1, seconds) == ()
    assert ready(plan, {long, after, short}, set(), 2, seconds) == ()


def test_ready_without_costs_weighs_by_multiply_adds():
    plan = make_plan(make_stage("a/train"))
    macs = outline(Recipe().model, 10).num_macs
    assert multiply_adds(plan) == {StageRef("a", "train"): 100.0 * 90 * macs}
    assert len(ready(plan, set(), set(), 1)) == 1


def test_remaining_path_follows_the_longest_branch():
    root, left, right = StageRef("a", "root"), StageRef("b", "left"), StageRef("c", "right")
    plan = make_plan(make_stage("a/root"), make_stage("b/left", "a/root"), make_stage("c/right", "a/root"))
    assert remaining_path(plan, {root: 1.0, left: 2.0, right: 3.0}) == {root: 4.0, left: 2.0, right: 3.0}


@pytest.mark.parametrize(("num_slots", "bound"), [(1, 9.0), (2, 6.0), (9, 6.0)])
def test_lower_bound_counts_slots_chains_and_a_member_s_own_work(num_slots, bound):
    plan = make_plan(*map(make_stage, ("a/x", "a/y", "b/z")))
    assert lower_bound(plan, dict.fromkeys(plan.by_ref, 3.0), num_slots) == bound
