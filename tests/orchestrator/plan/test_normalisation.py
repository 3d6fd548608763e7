"""Whose normalisation a stage has: in its hash, in the lines of a plan, and what is refused."""

import json
from types import MappingProxyType

import pytest

from orchestrator.config.composition import compose
from orchestrator.plan.build import make_plan, used_datasets
from orchestrator.plan.checks import remarks
from orchestrator.plan.model import StageRef, normalised_as, plan_from_json, plan_to_json
from workers.data.survey import Survey
from workers.errors import ConfigError

COUNTS = MappingProxyType({"train": 9000, "dev": 1000, "val": 1000, "test": 0})
SURVEY = Survey(tuple(f"class{number}" for number in range(10)), 10, COUNTS, declared=False)
OTHERS = Survey(("up", "down"), 2, COUNTS, declared=False)
KIND = "augmentation.normalisation"
# Before a stage inherited anything, with every data set of these classes (tests/orchestrator/plan/plan_hashes.json).
DIGITS_BEFORE = "5e2498c9c70d3364a5d4a7f83b9ab07020ba122ccd1cef347fa7d4c571f5dc94"
CHAIN = "ensemble.members.pretrained1.stages"


def planned(*overrides, superset=OTHERS):
    config = compose(overrides)
    surveys = {name: superset if name == "superset" else SURVEY for name in used_datasets(config)}
    return make_plan(config, surveys)


def hashes(plan):
    return {str(one.ref): (one.hash, one.trunk) for one in plan.stages}


def origin(plan, ref):
    return str(normalised_as(plan.stage(StageRef.parse(ref)), plan.by_ref).ref)


def test_stage_without_an_ancestor_has_one_hash_whether_it_says_auto_or_dataset():
    auto, dataset = hashes(planned()), hashes(planned(f"{KIND}=dataset"))
    same = {ref for ref in auto if auto[ref] == dataset[ref]}
    assert same == {*(f"base{one}/train" for one in range(1, 6)), "pretrained1/pretrain", "pretrained2/pretrain"}
    assert hashes(planned(f"{KIND}=imagenet"))["base1/train"] != auto["base1/train"]


def test_dataset_gives_the_plan_hash_of_earlier_releases():
    assert planned(f"{KIND}=dataset", superset=SURVEY).hash == DIGITS_BEFORE
    assert planned(superset=SURVEY).hash != DIGITS_BEFORE


def test_stage_that_inherits_what_it_would_have_anyway_keeps_its_hash():
    late = ("ensemble=five", "+ensemble.members.late.stages.more={dataset: target, init_from: base1.train}")
    assert hashes(planned(*late)) == hashes(planned(*late, f"{KIND}=dataset"))
    # The statistics of ImageNet are the same whoever names them.
    first = f"ensemble.stages.pretrain.{KIND}=imagenet"
    inherited = planned("ensemble=pair", first)
    named = planned("ensemble=pair", first, f"ensemble.stages.finetune.{KIND}=imagenet")
    assert hashes(inherited) == hashes(named)
    assert remarks(inherited) == []


def test_chain_of_three_has_the_first_stage_s_normalisation_and_a_stage_that_names_its_own_ends_it():
    between = f"+{CHAIN}.between={{dataset: target, init_from: pretrain, reset: [fc8]}}"
    chain = ("ensemble=pair", between, f"{CHAIN}.finetune.init_from=between", f"{CHAIN}.finetune.reset=[]")
    plan = planned(*chain)
    assert origin(plan, "pretrained1/finetune") == origin(plan, "pretrained1/between") == "pretrained1/pretrain"
    assert origin(plan, "base1/train") == "base1/train"
    again = plan_from_json(json.loads(json.dumps(plan_to_json(plan))))
    assert origin(again, "pretrained1/finetune") == "pretrained1/pretrain"
    broken = planned(*chain, f"{CHAIN}.between.{KIND}=dataset")
    assert origin(broken, "pretrained1/finetune") == "pretrained1/between"
    assert hashes(broken)["pretrained1/between"] != hashes(plan)["pretrained1/between"]


def test_hash_of_an_heir_follows_the_images_that_normalise_it():
    first, larger = (planned(f"ensemble.stages.pretrain.{KIND}={kind}") for kind in ("auto", "mean_image"))
    changed = {ref for ref, digest in hashes(first).items() if hashes(larger)[ref] != digest}
    assert changed == {f"pretrained{one}/{stage}" for one in (1, 2) for stage in ("pretrain", "finetune")}


@pytest.mark.parametrize(("kind", "own"), [("auto", "dataset"), ("dataset", "dataset"), ("mean_image", "mean_image")])
def test_plan_says_whose_images_normalise_a_stage_and_how_to_have_its_own(kind, own):
    plan = planned(f"ensemble.stages.pretrain.{KIND}={kind}", "schedule.warmup_updates=1")
    line = "pretrained1/finetune and 1 more: normalised as pretrained1/pretrain on superset; "
    assert remarks(plan) == [f"{line}{KIND}={own} for its own"]
    assert remarks(planned(f"{KIND}={own}", "schedule.warmup_updates=1")) == []


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("change", ["resized_crop=true", "rotation_degrees=1", "policy=augmix", "hue=0.1"])
def test_mean_image_of_a_stages_own_or_inherited_is_refused_for_changed_images(stage, change):
    """A position of the mean image means nothing once a crop is scaled or turned."""
    words = (f"ensemble.stages.pretrain.{KIND}=mean_image", f"ensemble.stages.{stage}.augmentation.{change}")
    refused = rf"^{CHAIN}\.{stage}\.{KIND}=mean_image: of pretrained1/pretrain, fits windows alone; give {KIND}=dataset"
    with pytest.raises(ConfigError, match=refused):
        planned(*words)
    assert planned(*words, f"ensemble.stages.{stage}.{KIND}=dataset").stages


def test_mean_image_of_another_size_is_refused_in_one_line():
    sizes = (f"ensemble.stages.pretrain.{KIND}=mean_image", "datasets.superset.size=36")
    with pytest.raises(ConfigError) as caught:
        planned(*sizes)
    assert str(caught.value) == (
        f"{CHAIN}.finetune.{KIND}=auto: pretrained1/pretrain has a mean image of 36 pixels, not of datasets.target."
        "size=32; give both one size, or mean_image for a mean of its own"
    )
    assert planned(*sizes, f"ensemble.stages.finetune.{KIND}=mean_image").stages
    assert planned("datasets.superset.size=36").stages, "mean and deviation have no size"
