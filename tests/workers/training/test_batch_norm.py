"""Running statistics in the life of a stage: saved, resumed, handed on, frozen and predicted with."""

from dataclasses import replace

import numpy as np
import pytest
from stages import contents, stop_after, trained, weights

from workers.data.store import open_store
from workers.errors import Stopped
from workers.inference import load_member, predict_images
from workers.models import build
from workers.protocol import StageSpec
from workers.settings import Crops, ModelSettings
from workers.training import run_stage

NET = ModelSettings(name="torchvision/shufflenet_v2_x0_5", input_size=16)
FIRST_NORM = "conv1.1"


@pytest.fixture
def spec(tiny_spec: StageSpec) -> StageSpec:
    return replace(tiny_spec, recipe=replace(tiny_spec.recipe, model=NET))


def test_checkpoint_of_a_net_with_batch_norm_holds_its_running_statistics(spec):
    saved = contents(trained(spec))
    assert saved.model.keys() == build(NET, 10).state_dict().keys()
    assert saved.model[f"{FIRST_NORM}.num_batches_tracked"] == saved.checkpoint.step > 0
    assert saved.model[f"{FIRST_NORM}.num_batches_tracked"].dtype == np.int64
    assert np.abs(saved.model[f"{FIRST_NORM}.running_mean"]).max() > 0
    assert not any("running" in name for name in saved.optimizer)


def test_checkpoint_of_alexnet_holds_its_weights_and_nothing_else(tiny_spec):
    names = {name for name, _ in build(tiny_spec.recipe.model, 10).named_parameters()}
    assert weights(trained(tiny_spec)).keys() == names


@pytest.mark.parametrize("updates", [1, 2, 3])
def test_resumed_stage_ends_with_the_same_running_statistics(spec, tmp_path, updates):
    straight = contents(trained(replace(spec, stage_dir=tmp_path / "straight")))
    with pytest.raises(Stopped):
        run_stage(spec, stop_after(updates))
    assert contents(trained(spec)).checkpoint.model_sha256 == straight.checkpoint.model_sha256


@pytest.mark.parametrize("freeze", [("body",), ()])
def test_only_frozen_layers_keep_the_ancestors_statistics(spec, turned_store, tmp_path, freeze):
    ancestor = trained(replace(spec, store=turned_store, stage="pretrain", stage_dir=tmp_path / "a" / "pretrain"))
    recipe = replace(spec.recipe, reset=("head",), freeze=freeze)
    before, after = weights(ancestor), weights(trained(replace(spec, init_dir=ancestor.stage_dir, recipe=recipe)))
    name = f"{FIRST_NORM}.num_batches_tracked"
    if freeze:
        differ = {name.rpartition(".")[0] for name in after if not np.array_equal(after[name], before[name])}
        assert differ == {"fc"}
    else:
        assert after[name] > before[name] > 0


def test_member_predicts_with_the_statistics_of_its_checkpoint(spec):
    saved = weights(trained(spec))
    member = load_member(spec.stage_dir, spec.store, spec.recipe, spec.numerics)
    loaded = member.model.state_dict()
    assert all(np.array_equal(loaded[name].numpy(), saved[name]) for name in saved)
    images = [np.array(image) for image in open_store(spec.store).images("val")[:3]]
    assert predict_images(spec.stage_dir, spec.store, spec.recipe, images, spec.numerics, Crops.ten).shape == (3, 10)


def test_last_batch_of_a_single_image_is_trained_on(spec):
    num_images = open_store(spec.store).counts["train"]
    settings = replace(spec.recipe, optimizer=replace(spec.recipe.optimizer, batch_size=num_images - 1))
    saved = contents(trained(replace(spec, recipe=settings)))
    assert saved.checkpoint.step == 2
    # By its running statistics, which it leaves alone.
    assert saved.model[f"{FIRST_NORM}.num_batches_tracked"] == 1
