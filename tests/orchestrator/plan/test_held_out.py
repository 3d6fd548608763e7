"""Plans in which nothing is held out, and refits, which train on what was."""

import re
from dataclasses import replace

import pytest
from small_plans import SIX, SURVEYS, again, base, member, planned, stage

from orchestrator.config.schema import PredictConfig
from orchestrator.plan.checks import remarks
from orchestrator.plan.schedule import ready
from workers.errors import ConfigError
from workers.settings.averaging import AveragingSettings, Soup
from workers.settings.training import (
    Decay,
    KeptCheckpoint,
    ScheduleSettings,
)

UNSEEN = {
    name: replace(survey, counts={"train": 300, "dev": 0, "val": 0, "test": 30}) for name, survey in SURVEYS.items()
}
FIXED = {"decay": Decay.fixed, "latest": (0.5, 0.75, 0.9)}


@pytest.mark.parametrize(
    ("schedule", "keep", "words"),
    [
        ({}, "last", "a.stages.train.schedule.decay=plateau: looks at dev or val, and target holds out neither; give "),
        ({"stop_when_stalled": True}, "last", "a.stages.train.schedule.stop_when_stalled=true: looks at dev or val"),
        (FIXED, "best", "predict.checkpoint=best: looks at dev or val, and target holds out neither; give predict.ch"),
        (FIXED, "soup", "predict.checkpoint=soup: looks at dev or val, and target holds out neither; give averaging."),
    ],
)
def test_plan_that_looks_where_nothing_is_held_out_is_refused(schedule, keep, words):
    best = AveragingSettings(soup=Soup.best)
    looking = member("a", train=replace(stage(), schedule=ScheduleSettings(epochs=4, **schedule), averaging=best))
    predict = PredictConfig(KeptCheckpoint(keep))
    with pytest.raises(ConfigError, match=rf"^[^\n]*{re.escape(words)}[^\n]*$"):
        planned(looking, surveys=UNSEEN, predict=predict)
    assert planned(looking, predict=predict).stages


@pytest.mark.parametrize(
    "schedule", [FIXED, {"decay": Decay.cosine, "cuts": 0, "latest": ()}, {"cuts": 0, "latest": ()}]
)
def test_plan_that_looks_at_nothing_is_made_and_says_so(schedule):
    blind = replace(stage(), schedule=ScheduleSettings(epochs=4, **schedule))
    plan = planned(member("a", train=blind), member("b", train=blind), surveys=UNSEEN)
    cuts = "; the rate is cut at 50%, 75%, 90% of the epochs" if schedule is FIXED else ""
    assert remarks(plan) == [f"a/train and 1 more: trains on all of target and looks at no other image{cuts}"]
    assert remarks(planned(member("a", train=blind))) == []


def refitted(name="a", **changes):
    return member(name, train=stage(), refit=replace(stage(**changes), refit="train"))


def test_plan_refit_comes_after_its_first_pass_and_trains_on_train_dev_and_val():
    plan = planned(refitted(), base("b"))
    train, refit = plan.stages_of("a")
    assert (train.ref.stage, refit.ref.stage, refit.refit, refit.init_from) == ("train", "refit", train.ref, None)
    assert (train.num_images, refit.num_images, refit.may_end_early) == (300, 360, True)
    assert (plan.refits, plan.last_stages["a"], plan.base_members()) == (("a",), refit.ref, ("a", "b"))
    assert again(plan) == plan
    assert [str(one.ref) for one in ready(plan, set(), set(), 9)] == ["a/train", "b/train"]
    assert [str(one.ref) for one in ready(plan, {train.ref}, set(), 9)] == ["a/refit", "b/train"]
    assert plan.stage(train.ref).hash == planned(base("a")).stage(train.ref).hash, "the first pass is what it was"


def test_plan_refit_has_its_first_pass_in_its_hash_and_starts_like_it():
    plan = planned(refitted(), base("a2"))
    other = planned(member("a", train=stage(lr=0.02), refit=replace(stage(), refit="train")))
    assert plan.last_stage("a").hash != other.last_stage("a").hash
    tuned = stage(init_from="pre", model=SIX)
    chain = member("a", pre=stage("superset", model=SIX), train=tuned, refit=replace(tuned, refit="train"))
    refit = planned(chain).last_stage("a")
    assert (str(refit.init_from), str(refit.refit)) == ("a/pre", "a/train")
    assert planned(chain).pretrained_members() == ("a",)


@pytest.mark.parametrize(
    ("members", "surveys", "words"),
    [
        ([refitted(epochs=9)], SURVEYS, "refit.refit=train: it has the schedule of a/train; set it there"),
        ([refitted()], UNSEEN, "its epochs are found on dev or val, and neither is held out; give dev_fraction=0.1"),
        (
            # Written after the refit, so that an order by refits alone would come to it too late.
            [member("a", train=stage(), refit=replace(stage(init_from="warm"), refit="train"), warm=stage())],
            SURVEYS,
            "a.stages.refit.refit=train: it starts from what a/train starts from; set it there",
        ),
        (
            [refitted()],
            {"target": replace(SURVEYS["target"], counts={"train": 300, "dev": 30, "val": 30, "test": 0})},
            "it trains on val too, so it can only predict test, and there is none; add test/",
        ),
        (
            [
                member(
                    "a", pre=stage("superset"), more=replace(stage("superset"), refit="pre"), t=stage(init_from="more")
                )
            ],
            SURVEYS,
            "only a stage on target can be trained again on dev and val",
        ),
        (
            [member("a", train=stage(), x=replace(stage(), refit="train"), y=replace(stage(), refit="x"))],
            SURVEYS,
            "y.refit=x: a/x is a refit itself",
        ),
        (
            [refitted(), member("b", train=stage(init_from="a.refit"))],
            SURVEYS,
            "b.stages.train.init_from: a/refit trained on dev and val; start from a/train",
        ),
    ],
)
def test_plan_refit_that_cannot_be_honest_is_refused(members, surveys, words):
    with pytest.raises(ConfigError, match=rf"^[^\n]*{re.escape(words)}[^\n]*$"):
        planned(*members, surveys=surveys)
