"""A stage takes its ancestor's layers, draws the reset ones again, and leaves frozen ones alone.

The release's chain in small: five convolutions → a sixth and a bottleneck → neither bottleneck nor the old head.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from stages import contents, never, trained, weights

from workers.errors import StorageError
from workers.models import build, initialise, outline
from workers.models.layers import MODEL_NAMES
from workers.protocol import StageSpec
from workers.settings import InitSettings, ModelSettings, OptimizerSettings
from workers.training import build_optimizer, mean_loss, run_stage

FIVE = ("conv1", "conv2", "conv3", "conv4", "conv5")
# So small a step that a weight of float32 does not move: what a stage ends with is what it began with.
UNMOVED = OptimizerSettings(lr=1e-30, batch_size=400)


@pytest.fixture
def base(tiny_spec):
    return trained(tiny_spec)


def after(ancestor: StageSpec, name: str, model: dict[str, int] | None = None, **recipe: Any) -> StageSpec:
    """A stage that starts from `ancestor`, and does not move unless `recipe` brings another optimizer."""
    net = replace(ancestor.recipe.model, **(model or {}))
    settings = replace(ancestor.recipe, **{"optimizer": UNMOVED, "reset": (), "model": net, **recipe})
    folder, seed = ancestor.stage_dir.parent / name, ancestor.seed + 1
    return replace(ancestor, stage=name, seed=seed, recipe=settings, init_dir=ancestor.stage_dir, stage_dir=folder)


def same_layers(one: StageSpec, other: StageSpec) -> set[str]:
    """Returns the layers whose weights have equal bits in both."""
    first, second = weights(one), weights(other)
    shared = {name for name in first.keys() & second.keys() if name.endswith(".weight")}
    return {name.removesuffix(".weight") for name in shared if np.array_equal(first[name], second[name])}


def test_chain_copies_what_is_not_reset_and_draws_the_rest_again(base, turned_store):
    six = after(base, "fall2009", {"num_convs": 6}, reset=("conv6", "fc6", "fc7", "head"))
    six = trained(replace(six, store=turned_store))
    assert same_layers(six, base) == set(FIVE)
    assert weights(six)["fc8.weight"].shape == (40, 16)

    narrow = trained(after(six, "fall2011", {"bottleneck": 8}, reset=("fc6", "fc7", "bottleneck", "head")))
    assert same_layers(narrow, six) == {*FIVE, "conv6"}
    assert weights(narrow)["bottleneck.weight"].shape == (8, 16)
    assert weights(narrow)["fc8.weight"].shape == (40, 8)

    fine = trained(replace(after(narrow, "finetune", {"bottleneck": 0}, reset=("head",)), store=base.store))
    assert same_layers(fine, narrow) == {*FIVE, "conv6", "fc6", "fc7"}
    assert "bottleneck.weight" not in weights(fine)
    assert weights(fine)["fc8.weight"].shape == (10, 16)


def test_frozen_layers_and_those_of_factor_zero_keep_their_bits_and_no_other_does(base):
    moving = base.recipe.optimizer
    narrow = trained(after(base, "narrow", {"bottleneck": 8}, reset=("bottleneck", "head"), optimizer=moving))
    still = {"freeze": ("conv1", "conv2", "bottleneck"), "lr_scale": {"fc6": 0.0}}
    spec = trained(after(narrow, "next", optimizer=moving, reset=("fc8",), **still))
    assert same_layers(spec, narrow) == {"conv1", "conv2", "bottleneck", "fc6"}
    slowed = trained(after(narrow, "slowed", optimizer=moving, lr_scale={"bottleneck": 0.0}))
    assert same_layers(slowed, narrow) == {"bottleneck"}


def test_transfer_trains_the_last_layer_alone_and_keeps_momentum_of_nothing_else(base):
    optimizer = base.recipe.optimizer
    spec = trained(after(base, "transfer", reset=("head",), freeze=("body",), optimizer=optimizer))
    before, found = weights(base), contents(spec)
    moved = {name for name in before if not np.array_equal(before[name], found.model[name])}
    assert moved == {"fc8.weight", "fc8.bias"} == set(found.optimizer)


def test_ancestor_of_another_shape_is_refused(base, turned_store):
    with pytest.raises(StorageError, match=r"fc8.*reset"):
        run_stage(replace(after(base, "next"), store=turned_store), never)


SMALL = ModelSettings(input_size=56, width=0.1, conv1_kernel=5, conv1_stride=2, fc_units=48)


def test_frozen_body_ends_the_backward_pass_at_the_last_layer():
    model = build(SMALL, 10)
    initialise(model, InitSettings(), seed=1)
    frozen = outline(SMALL, 10).select_all(("body",))
    build_optimizer(model, OptimizerSettings(), frozen, {})
    hidden: dict[str, torch.Tensor] = {}
    model.get_submodule("fc8").register_forward_pre_hook(lambda _, given: hidden.update(last=given[0]))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        logits = model.train()(torch.randn(4, 3, 56, 56))
    mean_loss(logits, torch.zeros(4, dtype=torch.int64)).backward()
    assert not hidden["last"].requires_grad
    # The forward pass keeps for the backward one what the last layer needs, and no activation below.
    assert max(tensor.numel() for tensor in kept) <= max(4, 10) * 48
    assert {name for name, one in model.named_parameters() if one.grad is not None} == {"fc8.weight", "fc8.bias"}


@pytest.mark.parametrize("name", [*MODEL_NAMES, "torchvision/resnet18", "timm/test_resnet"])
def test_parameters_left_to_train_are_those_of_the_built_layers_that_are_not_frozen(name):
    if name.startswith("timm/"):
        pytest.importorskip("timm", reason="the extra `timm` is not installed")
    settings = ModelSettings(name=name, input_size={"alexnet": 224}.get(name, 32))
    found = outline(settings, 10)
    frozen = found.select_all(("body",))
    with torch.device("meta"):
        model = build(settings, 10)
    build_optimizer(model, OptimizerSettings(), frozen, {})
    built = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert found.num_trained(frozen) == built < found.num_parameters
    assert found.num_trained(()) == found.num_parameters
