"""Which members are of one recipe, and where `ensemble.admit` is refused."""

from dataclasses import replace

import pytest
from small_plans import base, planned, pretrained

from orchestrator.config.composition import compose
from orchestrator.config.schema import AdmitConfig
from orchestrator.plan.admission import recipes
from orchestrator.plan.build import make_plan, used_datasets
from workers.data.survey import Survey
from workers.errors import ConfigError

WORTH = "ensemble.admit.worth=0.001"
COUNTS = {"train": 900, "dev": 50, "val": 100, "test": 100}


def plan(*words: str, **counts: int):
    config = compose(["experiment=digits", *words])
    survey = Survey(tuple(f"class{number}" for number in range(10)), 10, COUNTS | counts, declared=False)
    return make_plan(config, dict.fromkeys(used_datasets(config), survey))


def test_members_that_differ_in_seeds_and_names_are_of_one_recipe():
    members = [base("one"), pretrained("two"), base("three"), base("four", lr=0.02), pretrained("five"), base("six")]
    found = planned(*(replace(one, seed=number) for number, one in enumerate(members)))
    assert recipes(found) == (("one", "three", "six"), ("two", "five"), ("four",))
    assert recipes(found, ["three", "four"]) == (("one", "six"), ("two", "five"))


def test_admission_is_outside_the_plan():
    assert plan("ensemble=five", WORTH, "ensemble.admit.confidence=0.95") == plan("ensemble=five")


@pytest.mark.parametrize(
    ("words", "counts", "message"),
    [
        (["ensemble=pair"], {}, "no three members differ only in their seeds"),
        (["ensemble=five", "combine.without=[base1,base2,base3]"], {}, "no three members differ only in their seeds"),
        (["ensemble=five"], {"dev": 0}, "decides by dev, and none is held out; give datasets.target.dev_fraction=0.1"),
        (["ensemble=five", "ensemble.folded=true"], {}, "decides about single members, and those of a recipe's folds"),
        (["ensemble=refit"], {}, "decides by dev, and .* trained on it; leave out the refit"),
        (
            ["ensemble=sweep", "sweep.seed=[0,1,2]", "sweep_stop=halving", "sweep_rungs=1"],
            {},
            "sweep_stop=halving ends members too",
        ),
        (
            ["ensemble=five", "submission.min_members=3"],
            {},
            "may leave 2 members, and submission.min_members=3; give at most 2",
        ),
    ],
)
def test_admission_with_nothing_to_decide_or_to_decide_by_is_refused(words, counts, message):
    plan(*words, **counts)
    with pytest.raises(ConfigError, match=rf"ensemble\.admit\.worth=0\.001: {message}"):
        plan(*words, WORTH, **counts)


def test_min_members_that_admission_always_leaves_are_accepted():
    plan("ensemble=seven", WORTH, "submission.min_members=4")


def test_null_is_no_admission():
    assert compose(["ensemble.admit=null"]).admit == compose(["ensemble.admit.worth=null"]).admit == AdmitConfig()
    assert compose([WORTH]).admit == AdmitConfig(0.001)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("ensemble.admit.worth=-1", r"ensemble\.admit\.worth=-1\.0: give 0 or more"),
        ("ensemble.admit.worth=much", r"ensemble\.admit\.worth=much: give a number"),
        ("ensemble.admit.confidence=0.8", r"ensemble\.admit\.confidence=0\.8: only ensemble\.admit\.worth reads it"),
        ("ensemble.admit.confidence=1", r"ensemble\.admit\.confidence=1\.0: give a share between 0 and 1"),
        ("ensemble.admit.wroth=1", r"ensemble\.admit\.wroth: no such key; did you mean ensemble\.admit\.worth"),
        ("ensemble.admit=0.1", r"ensemble\.admit=0\.1: give keys below ensemble\.admit"),
    ],
)
def test_bad_settings_of_admission_are_refused(word, message):
    with pytest.raises(ConfigError, match=message):
        compose([word])
