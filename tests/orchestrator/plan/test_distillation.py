"""A student follows all members of the folds, in hash, order and time; and what it cannot be is refused."""

from dataclasses import replace

import pytest
from small_plans import again, base, config, member, planned, stage

from orchestrator.combine import STUDENT, Missing, left_out, weights_of, without
from orchestrator.config.composition import compose
from orchestrator.config.folds import fold_members
from orchestrator.config.schema import CombineConfig, FoldsConfig
from orchestrator.plan.diff import ChangeKind, compare
from orchestrator.plan.model import PredictJob, StageRef, TrainJob
from orchestrator.plan.report import make_report
from orchestrator.plan.schedule import estimate, ready
from workers.errors import ConfigError
from workers.settings import Distil

HALF = Distil(0.5, 2.0)
LAST = StageRef("student", "train")


def student(name="student", **changes):
    return base(name, distil=HALF, **changes)


def distilled(*members, folds=None, **changes):
    asked = folds or FoldsConfig(k=3)
    made = fold_members(config(*members).members, asked)
    return planned(*made.values(), folds=asked, **changes)


@pytest.fixture(scope="module")
def plan():
    # Written first, it is planned last.
    return distilled(student(), base("base1"))


def test_student_is_one_member_taught_by_all_of_the_folds_and_trained_on_all_images(plan):
    assert set(plan.members) == {"student", "base1-f0", "base1-f1", "base1-f2"}
    assert plan.stages[-1].ref == LAST
    assert plan.stage(LAST).teachers == tuple(plan.last_stages[f"base1-f{number}"] for number in range(3))
    assert (plan.students, plan.stage(LAST).num_images, plan.fold("student").k) == (("student",), 300, 0)
    assert again(plan) == plan


def test_students_hash_follows_its_teachers_and_theirs_do_not_follow_it(plan):
    alone = distilled(base("base1"))
    assert compare(alone, plan).kind is ChangeKind.extends
    assert compare(alone, plan).lines == ("new stage student/train",)
    other = distilled(student(), base("base1", lr=0.02))
    assert other.stage(LAST).hash != plan.stage(LAST).hash
    renamed = distilled(student(), replace(base("base1"), name="base1"), base("base2"))
    assert renamed.stage(LAST).hash != plan.stage(LAST).hash
    assert "student/train" in " ".join(compare(plan, renamed).lines)
    weaker = distilled(base("student", distil=Distil(0.4, 2.0)), base("base1"))
    assert any(line.startswith("distil.weight: 0.5 → 0.4") for line in compare(plan, weaker).lines)


def test_longer_teachers_are_told_to_be_bound_by_the_student():
    constant = {"schedule": replace(stage().schedule, cuts=0, latest=())}
    short = member("base1", train=replace(stage(), **constant))
    long = member("base1", train=replace(stage(), schedule=replace(constant["schedule"], epochs=8)))
    change = compare(distilled(student(), short), distilled(student(), long))
    assert change.kind is ChangeKind.differs
    assert "student/train starts from it or learns from it" in " ".join(change.lines)


def test_student_is_ready_once_all_of_its_teachers_have_predicted(plan):
    teachers = plan.stage(LAST).teachers
    assert LAST not in {one.ref for one in ready(plan, teachers[:2], (), 9)}
    assert [one.ref for one in ready(plan, teachers, (), 9)] == [LAST]
    assert ready(plan, teachers, (), 9, predicted=teachers[:2]) == ()


def test_students_time_comes_after_the_longest_teachers(plan):
    seconds = {one.ref: 10.0 for one in plan.stages} | {plan.last_stages["base1-f1"]: 25.0}
    found = estimate(plan, seconds, 3)
    assert (found.makespan_s, found.lower_bound_s) == (35.0, 35.0)


def test_job_of_a_student_requires_training_and_predictions_of_each_teacher(plan):
    required = plan.requires(plan.stage(LAST))
    teachers = plan.stage(LAST).teachers
    assert required == {TrainJob(LAST), *map(TrainJob, teachers), *map(PredictJob, teachers)}
    assert plan.requires(plan.stage(teachers[0])) == {TrainJob(teachers[0])}


def test_student_is_left_out_of_what_is_combined_and_covered(plan):
    gone = left_out(CombineConfig(), plan)
    assert gone == (Missing("student", STUDENT),)
    combined = without(plan, gone)
    assert combined.members == tuple(name for name in plan.members if name != "student")
    assert combined.is_covered and plan.is_covered and combined.students == ("student",)
    assert weights_of(CombineConfig(weights={"base1": 1}), combined.members, combined.voters) == (1 / 3,) * 3
    # A manifest of before the student does not name it.
    assert without(plan, ()).members == combined.members


@pytest.mark.parametrize("given", [{"without": ("student",)}, {"weights": {"student": 2.0}}])
def test_student_in_the_settings_of_what_is_combined_is_refused(plan, given):
    with pytest.raises(ConfigError, match=rf"combine\.{next(iter(given))}: student is a student, .*; remove it"):
        left_out(CombineConfig(**given), plan)


def test_plan_tells_who_teaches(plan):
    report = make_report(plan, config(base("a")).cluster, 2)
    assert "–, taught by 3 members" in report.to_text()
    told = {f"{one['member']}/{one['stage']}": one["teachers"] for one in report.to_json()["stages"]}
    assert told["student/train"] == ["base1-f0/train", "base1-f1/train", "base1-f2/train"]
    assert told["base1-f0/train"] == []


def test_student_may_be_pretrained_and_two_students_have_the_same_teachers():
    deep = member("deep", pre=stage("superset"), last=stage(init_from="pre", distil=HALF))
    plan = distilled(deep, student(), base("base1"))
    assert plan.students == ("deep", "student")
    assert plan.last_stage("deep").teachers == plan.last_stage("student").teachers
    assert TrainJob(StageRef("deep", "pre")) in plan.requires(plan.last_stage("deep"))


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([student()], "train.distil.weight=0.5: no member is trained in folds, so there is none to learn from; give"),
        (
            [member("s", pre=stage("superset", distil=HALF), last=stage(init_from="pre")), base("b")],
            "init_from=pre: s/pre learns from the ensemble, and such a stage is its member's last",
        ),
        ([member("s", train=stage(distil=HALF), again=stage(distil=HALF, refit="train")), base("b")], "refit=train: "),
        ([member("s", train=stage(), again=stage(distil=HALF, refit="train")), base("b")], "a refit trains on dev"),
        ([student("s"), base("b", init_from="s.train")], "init_from=s.train: a student learns from all images"),
    ],
)
def test_student_that_cannot_be_is_refused(members, why):
    with pytest.raises(ConfigError, match=why):
        distilled(*members)


def test_student_without_folds_is_refused():
    with pytest.raises(ConfigError, match="no member is trained in folds"):
        planned(student(), base("base1"))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("distil.weight=1.5",), "distil.weight=1.5: give a share in"),
        (("distil.temperature=0",), "distil.temperature=0.0: give a number above 0"),
        (("distil.weight=0",), "distil.temperature=2: only distil.weight reads it; give that too, or remove it"),
    ],
)
def test_setting_out_of_its_range_or_unread_is_refused(words, why):
    typed = (f"ensemble.members.student.stages.train.{word}" for word in words)
    with pytest.raises(ConfigError, match=why):
        compose(["ensemble=distilled", *typed])


def test_ensemble_distilled_is_that_of_folds_and_a_student():
    folds, found = compose(["ensemble=folds"]), compose(["ensemble=distilled"])
    assert {name: one for name, one in found.members.items() if name != "student"} == folds.members
    assert found.members["student"].stages["train"].distil == HALF
    with pytest.raises(ConfigError, match="distill=true: no such key; give ensemble=distilled"):
        compose(["distill=true"])
