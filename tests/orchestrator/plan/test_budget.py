"""Which members go first within a time: never fewer end than longest path first, and what `plan` says of it."""

from dataclasses import replace

import pytest
from fake_stages import make_plan, make_stage
from hypothesis import given, settings, strategies as st
from small_plans import base, planned

from orchestrator.config.composition import compose
from orchestrator.plan.budget import budget_line, choose_first, needed_by, usable_s
from orchestrator.plan.report import make_report
from orchestrator.plan.schedule import estimate, ready, simulate
from workers.settings import Distil, Fold
from workers.settings.training import Crops


@st.composite
def cases(draw):
    """Small plans of chains that may begin in other members' stages; seconds follow the multiply-adds."""
    stages = []
    for number in range(draw(st.integers(1, 7))):
        earlier = [str(stage.ref) for stage in stages]
        length = draw(st.integers(1, 2))
        parent = draw(st.none() | st.sampled_from(earlier)) if earlier else None
        for place in range(length):
            stages.append(make_stage(f"m{number}/s{place}", parent, images=draw(st.integers(1, 20))))
            parent = f"m{number}/s{place}"
    plan = make_plan(*stages)
    seconds = {stage.ref: float(stage.num_images) for stage in plan.stages}
    return plan, seconds, draw(st.integers(1, 60)), draw(st.integers(1, 3))


def launched(plan, seconds, limit_s, num_slots, *, plain):
    """The members that a launch of whole seconds finishes: at each, it decides again, as the driver does."""
    left, running, before = dict(seconds), set(), frozenset()
    done = set()
    for second in range(limit_s):
        parts = (plan,)
        if not plain:
            open_ones = {ref: one for ref, one in left.items() if one}
            before = choose_first(plan, open_ones, limit_s - second, num_slots, running, before)
            needed = needed_by(plan, before)
            parts = (replace(plan, stages=tuple(one for one in plan.stages if one.ref in needed)), plan)
            kept = running & needed
            waiting = len(ready(parts[0], done, kept, num_slots))
            for ref in sorted(running - kept)[: max(0, waiting - (num_slots - len(running)))]:
                running.discard(ref)
        for part in parts:
            running |= {stage.ref for stage in ready(part, done, running, num_slots)}
        for ref in running:
            left[ref] -= 1
        over = {ref for ref in running if left[ref] <= 0}
        done |= over
        running -= over
    return {member for member, ref in plan.last_stages.items() if ref in done}


@settings(max_examples=60, deadline=None)
@given(cases())
def test_launch_finishes_at_least_as_many_members_as_longest_path_first(case):
    ours, plain = (launched(*case, plain=plain) for plain in (False, True))
    assert len(ours) >= len(plain)


def test_launch_finishes_short_members_that_longest_path_first_does_not():
    plan = make_plan(*(make_stage(f"m{number}/train", images=images) for number, images in enumerate((9, 8, 3, 2))))
    seconds = {stage.ref: float(stage.num_images) for stage in plan.stages}
    assert launched(plan, seconds, 6, 1, plain=True) == set()
    assert launched(plan, seconds, 6, 1, plain=False) == {"m2", "m3"}
    assert choose_first(plan, seconds, 22, 1) == set(plan.members), "all can end, and so none has to wait"
    assert choose_first(plan, {}, 6, 1) == frozenset()


def test_member_that_others_go_before_keeps_its_place_while_nothing_is_gained():
    plan = make_plan(*(make_stage(f"m{number}/train", images=5) for number in range(3)))
    seconds = {stage.ref: 5.0 for stage in plan.stages}
    assert choose_first(plan, seconds, 10, 1, before={"m2", "m1"}) == {"m1", "m2"}


def test_student_that_goes_first_brings_its_teachers():
    teachers = [make_stage(f"base-f{number}/train", images=10, fold=Fold(2, number)) for number in range(2)]
    student = make_stage("student/train", images=5, distil=Distil(0.5))
    plan = make_plan(replace(student, teachers=tuple(one.ref for one in teachers)), *teachers)
    plan = replace(plan, stages=(*teachers, plan.stages[0]))
    seconds = {stage.ref: float(stage.num_images) for stage in plan.stages}
    assert needed_by(plan, ["student"]) == seconds.keys()
    assert choose_first(plan, seconds, 25, 1) == set(plan.members)
    assert simulate(plan, seconds, 3)[student.ref] == 15, "it waits, whatever is free"


@settings(max_examples=60, deadline=None)
@given(cases())
def test_simulation_starts_what_ready_says(case):
    plan, seconds, _, num_slots = case
    now, ended, running = 0.0, {}, {}
    while len(ended) < len(plan.stages):
        running |= {one.ref: now + seconds[one.ref] for one in ready(plan, ended, running, num_slots)}
        now = min(running.values())
        ended |= {ref: end for ref, end in running.items() if end <= now}
        running = {ref: end for ref, end in running.items() if end > now}
    assert simulate(plan, seconds, num_slots) == ended
    assert estimate(plan, seconds, num_slots).makespan_s == now


@pytest.fixture
def seven():
    return make_plan(*(make_stage(f"m{number}/train", images=100 * (number + 1)) for number in range(7)))


@pytest.mark.parametrize(
    ("hours", "words"),
    [
        # Of 28 hours on two slots: 5 + 2 and 4 + 1 with 3 are more than 8 hours less five minutes.
        (8, "4 of 7 members end (about 5 h 00 min); the others reach 0 % to 49 %"),
        (0.5, "0 of 7 members end; the others reach 0 % to 7 %"),
        (15, "all 7 members end (about 14 h 00 min)"),
    ],
)
def test_line_says_how_many_members_end_and_how_far_the_others_come(seven, hours, words):
    seconds = {stage.ref: 36.0 * stage.num_images for stage in seven.stages}
    assert budget_line(seven, seconds, hours, 2, Crops.ten) == f"budget: {hours:g} h: {words}"


def test_predictions_count(seven):
    counted = replace(seven, datasets=(replace(seven.target, counts={"train": 100, "test": 2000}),))
    seconds = {stage.ref: 36.0 * stage.num_images for stage in seven.stages}
    assert "all 7" in budget_line(counted, seconds, 18, 2, Crops.centre)
    assert "all 7" not in budget_line(counted, seconds, 18, 2, Crops.ten)


def test_plan_says_what_fits_a_budget_and_without_a_rate_that_it_does_not_know():
    plan = planned(base("a"), base("b"))
    rates = {stage.ref: 1.0 for stage in plan.stages}
    cluster = compose([]).cluster
    assert "budget" not in make_report(plan, cluster, 1, rates).to_text()
    found = make_report(plan, cluster, 1, rates, hours=1.0)
    assert "\nbudget: 1 h: 2" not in found.to_text() and found.budget in found.to_text().splitlines()
    assert found.to_json()["budget"] == found.budget
    assert (
        make_report(plan, cluster, 1, hours=1.5).budget == "budget: 1.5 h: no rate measured, so what fits is not known"
    )


def test_reserve_is_five_minutes_or_a_tenth_of_a_short_budget():
    assert usable_s(8 * 3600) == 8 * 3600 - 300
    assert usable_s(100) == 90
