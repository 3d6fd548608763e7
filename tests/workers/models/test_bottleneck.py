"""The linear bottleneck before a last layer of very many classes."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import linear, relu

from workers.models import build, initialise, outline
from workers.settings import InitSettings, ModelSettings

SMALL = ModelSettings(input_size=56, width=0.1, conv1_kernel=5, conv1_stride=2, fc_units=48, bottleneck=12)
RELEASE = ModelSettings(num_convs=6, bottleneck=2048)
NUM_CLASSES = 21_843


def test_bottleneck_of_the_release_has_the_parameters_that_the_arithmetic_gives():
    convs_and_fc6_fc7 = 61_555_304 - 4_097_000
    expected = convs_and_fc6_fc7 + (4096 * 2048 + 2048) + (2048 * NUM_CLASSES + NUM_CLASSES)
    found = outline(RELEASE, NUM_CLASSES)
    with torch.device("meta"):
        assert sum(each.numel() for each in build(RELEASE, NUM_CLASSES).parameters()) == expected
    assert found.num_parameters == expected
    plain = outline(ModelSettings(num_convs=6), NUM_CLASSES)
    assert expected == 110_605_267
    assert plain.num_parameters - expected == (4096 - 2048) * NUM_CLASSES - 4096 * 2048 - 2048
    assert plain.num_macs - found.num_macs == (4096 - 2048) * NUM_CLASSES - 4096 * 2048
    assert found.num_neurons - plain.num_neurons == 2048


def test_bottleneck_lies_between_fc7_and_the_head_and_has_a_name_to_reset_and_freeze_by():
    found = outline(SMALL, 10)
    assert tuple(found.layers)[-4:] == ("fc6", "fc7", "bottleneck", "fc8")
    assert found.head == "fc8"
    assert "bottleneck" in found.select("body")
    assert found.select("bottleneck") == ("bottleneck",)
    assert not outline(ModelSettings(), 10).select("bottleneck")


def test_bottleneck_is_linear_without_relu_or_dropout():
    model = build(SMALL, 10)
    initialise(model, InitSettings(), seed=3)
    seen: dict[str, torch.Tensor] = {}
    model.get_submodule("bottleneck").register_forward_pre_hook(lambda _, given: seen.update(hidden=given[0]))
    # In training, where dropout would show between the two layers.
    logits = model.train()(torch.randn(4, 3, 56, 56, generator=torch.Generator().manual_seed(0)))
    narrow, head = model.get_submodule("bottleneck"), model.get_submodule("fc8")
    middle = linear(seen["hidden"], narrow.weight, narrow.bias)
    assert bool((middle < 0).any())
    assert torch.equal(logits, linear(middle, head.weight, head.bias))
    assert not torch.allclose(logits, linear(relu(middle), head.weight, head.bias))


def test_bottleneck_is_drawn_by_fan_in_without_the_factor_for_relu():
    model = build(replace(SMALL, fc_units=512, bottleneck=256), 10)
    initialise(model, InitSettings(bias=1.0), seed=3)
    narrow = model.get_submodule("bottleneck")
    assert narrow.weight.std().item() == pytest.approx((1 / 512) ** 0.5, rel=0.02)
    assert not bool(narrow.bias.any())
