"""Files of class weights: read when a configuration is composed, checked against the classes, kept by value."""

from types import MappingProxyType

import pytest

from orchestrator.config.composition import compose, reopen
from orchestrator.plan.build import make_plan, used_datasets
from orchestrator.plan.diff import compare
from workers.data.survey import Survey
from workers.errors import ConfigError

TARGET = ("ensemble=five", "dataset@datasets.target=folder", "datasets.target.root=/x", "datasets.target.size=36")
SURVEY = Survey(("cat", "dog house"), 2, MappingProxyType({"train": 90, "dev": 9, "val": 9, "test": 0}), False)
GOOD = "cat 2\ndog house\t5e-1\n"


@pytest.fixture
def planned(tmp_path):
    path = tmp_path / "weights.txt"

    def plan_of(text, key="loss.class_weights"):
        path.write_text(text)
        config = compose([*TARGET, f"{key}={path}"])
        return make_plan(config, dict.fromkeys(used_datasets(config), SURVEY))

    return plan_of


def test_values_of_the_file_are_in_recipe_and_hash_and_its_order_and_place_are_not(planned, tmp_path):
    plan = planned(GOOD)
    assert plan.stages[0].recipe.loss.class_weights == {"cat": 2.0, "dog house": 0.5}
    assert planned("\ndog house 0.5\n cat  2.0").hash == plan.hash
    other = planned("cat 2\ndog house 0.6\n")
    assert other.hash != plan.hash
    assert any("loss.class_weights.dog house: 0.5 → 0.6" in line for line in compare(plan, other).lines)


def test_a_run_that_is_read_again_needs_its_file_no_more(tmp_path):
    path = tmp_path / "weights.txt"
    path.write_text(GOOD)
    config = compose([*TARGET, f"ensemble.members.base1.loss.class_weights={path}"])
    path.unlink()
    assert reopen(config.yaml).members == config.members


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("cat 2\n", "stages.train.loss.class_weights: no weight of dog house; give every class of target one"),
        ("cat 2\ndog house 1\ncta 3", "stages.train.loss.class_weights: target has no class cta; "),
        ("cat 2\ncat 3", "weights.txt: has a class twice; give each class one line"),
        ("cat x", "weights.txt: could not convert string to float: 'x'; give none, balanced, or a file of lines"),
        ("cat", "weights.txt: could not convert string to float: 'cat'; give none, balanced, or a file of lines"),
        ("cat 0\ndog house 1", "loss.class_weights.cat=0.0: give a positive number"),
        ("cat nan\ndog house 1", "loss.class_weights.cat=nan: give a number"),
        ("", "loss.class_weights: no weight of cat, dog house; give every class of target one"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(planned, text, line):
    with pytest.raises(ConfigError) as caught:
        planned(text)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_word_that_is_no_file_is_refused_with_what_is_known():
    with pytest.raises(ConfigError, match=r"^loss.class_weights=balance: .*give none, balanced, or a file of lines"):
        compose([*TARGET, "loss.class_weights=balance"])
