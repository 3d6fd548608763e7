"""Running statistics in the life of a stage: saved, resumed, handed on, frozen and predicted with."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from stages import contents, stop_after, trained, weights
from torch import nn

from workers.data.store import open_store
from workers.errors import Stopped
from workers.inference import load_member, predict_images
from workers.models import build
from workers.protocol import Numerics
from workers.settings import Crops, ModelSettings
from workers.training import run_stage
from workers.training.batch_norm import RunningStatistics, set_modes

NET = ModelSettings(name="torchvision/shufflenet_v2_x0_5", input_size=16)
FIRST_NORM = "conv1.1"


@pytest.fixture
def spec(tiny_spec):
    return replace(tiny_spec, recipe=replace(tiny_spec.recipe, model=NET))


def test_checkpoint_of_a_net_with_batch_norm_holds_its_running_statistics(spec):
    saved = contents(trained(spec))
    assert saved.model.keys() == build(NET, 10).state_dict().keys()
    assert saved.model[f"{FIRST_NORM}.num_batches_tracked"] == saved.checkpoint.step > 0
    assert saved.model[f"{FIRST_NORM}.num_batches_tracked"].dtype == np.int64
    assert np.abs(saved.model[f"{FIRST_NORM}.running_mean"]).max() > 0
    assert not any("running" in name for name in saved.optimizer)


@pytest.mark.parametrize("updates", [1, 2, 3])
def test_resumed_stage_ends_with_the_same_running_statistics(spec, tmp_path, updates):
    straight = contents(trained(replace(spec, stage_dir=tmp_path / "straight")))
    with pytest.raises(Stopped):
        run_stage(spec, stop_after(updates))
    assert contents(trained(spec)).checkpoint.model_sha256 == straight.checkpoint.model_sha256


def test_stage_with_convolutions_by_shape_resumes_to_the_same_bits(spec, tmp_path):
    spec = replace(spec, numerics=Numerics(precision="bf16", convolutions="by_shape"))
    straight = contents(trained(replace(spec, stage_dir=tmp_path / "straight"))).checkpoint.model_sha256
    with pytest.raises(Stopped):
        run_stage(spec, stop_after(2))
    assert contents(trained(spec)).checkpoint.model_sha256 == straight


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
    assert predict_images(member, images, Crops.ten).shape == (3, 10)


def test_last_batch_of_a_single_image_is_trained_on(spec):
    num_images = open_store(spec.store).counts["train"]
    settings = replace(spec.recipe, optimizer=replace(spec.recipe.optimizer, batch_size=num_images - 1))
    saved = contents(trained(replace(spec, recipe=settings)))
    assert saved.checkpoint.step == 2
    # By its running statistics, which it leaves alone.
    assert saved.model[f"{FIRST_NORM}.num_batches_tracked"] == 1


@pytest.mark.parametrize("momentum", [0.1, None])
def test_captured_statistics_are_taken_in_as_torch_does_to_a_rounding(momentum):
    torch.manual_seed(0)
    pieces = [torch.randn(size, 5, 4, 4) * 3 + 1 for size in (6, 1, 4, 5)]
    plain, norm, unused = (nn.BatchNorm2d(5, momentum=momentum) for _ in range(3))
    statistics, rows = RunningStatistics([norm, unused]), []
    for piece in pieces:
        set_modes([plain, norm, unused], len(piece))
        plain(piece)
        norm(piece)
        rows.append(statistics.captured(piece))
        assert torch.equal(norm.running_mean, torch.zeros(5)), "a piece changed what the next one of one image sees"
    statistics.take_in(rows)
    assert norm.momentum == momentum
    assert norm.num_batches_tracked == plain.num_batches_tracked == 3
    torch.testing.assert_close(norm.running_mean, plain.running_mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(norm.running_var, plain.running_var, rtol=1e-6, atol=1e-7)
    assert torch.equal(unused.running_var, torch.ones(5))
    assert unused.num_batches_tracked == 0


def test_frozen_norm_keeps_its_statistics_when_others_take_in_shards(spec):
    optimizer = replace(spec.recipe.optimizer, shards=3)
    recipe = replace(spec.recipe, optimizer=optimizer, freeze=("body",))
    after = weights(trained(replace(spec, recipe=recipe)))
    assert after[f"{FIRST_NORM}.num_batches_tracked"] == 0
    assert np.array_equal(after[f"{FIRST_NORM}.running_var"], np.ones_like(after[f"{FIRST_NORM}.running_var"]))
