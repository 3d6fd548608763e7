"""Convolutions by shape equal torch's to bfloat16's rounding, and are used by others' nets in training only."""

import copy

import pytest
import torch
from torch import nn

from workers.models import build, initialise, place
from workers.models.replacements import ByShape, replace_convolutions
from workers.settings import InitSettings, ModelSettings


def trained_once(conv, images, grad, *, bf16=True):
    """Returns outputs and the gradients of images, weights and biases, in float64."""
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        outputs = conv(images)
    outputs.backward(grad.to(outputs.dtype))
    gradients = [images.grad, *(parameter.grad for parameter in conv.parameters())]
    return [outputs.detach().double(), *(each.double() for each in gradients)]


def distance(found, exact):
    return float((found - exact).norm() / exact.norm())


CASES = {
    "two pixels": (nn.Conv2d(24, 16, 3, padding=1), 2),
    "two pixels, no padding": (nn.Conv2d(24, 16, (1, 2)), 2),
    "no bias": (nn.Conv2d(24, 16, 3, padding=1, bias=False), 2),
    "strided": (nn.Conv2d(16, 24, 3, 2, 1), 4),
    "odd sides": (nn.Conv2d(16, 24, (3, 5), (2, 1), (1, 2)), 5),
    "one pixel": (nn.Conv2d(24, 16, 1), 1),
    "a strided pixel": (nn.Conv2d(24, 16, 1, 2), 8),
    "few windows": (nn.Conv2d(16, 24, 3, padding=1), 4),
    "depthwise, strided": (nn.Conv2d(24, 24, 3, 2, 1, groups=24), 8),
    "depthwise, of five": (nn.Conv2d(24, 24, 5, 1, 2, groups=24), 4),
    "large maps": (nn.Conv2d(8, 8, 3, padding=1), 20),
}


@pytest.mark.parametrize(("conv", "side"), CASES.values(), ids=CASES)
def test_training_step_is_that_of_torch_to_rounding(conv, side):
    torch.manual_seed(0)
    conv = copy.deepcopy(conv).to(memory_format=torch.channels_last)
    # All numbers have bfloat16's digits, so that only sums and results are rounded.
    for parameter in conv.parameters():
        parameter.data = parameter.data.bfloat16().float()
    images = torch.randn(3, conv.in_channels, side, side).bfloat16().float()
    images = images.contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(conv(images)).bfloat16().float()
    exact = trained_once(copy.deepcopy(conv).double(), images.double(), grad.double(), bf16=False)
    by_torch = trained_once(copy.deepcopy(conv), images, grad)
    replace_convolutions(conv)
    found = trained_once(conv, images, grad)
    assert type(conv) is ByShape
    for one, other, truth in zip(found, by_torch, exact, strict=True):
        assert one.shape == truth.shape
        assert distance(one, truth) <= max(1.2 * distance(other, truth), 2**-9)


def test_bias_trains_beside_frozen_weights():
    conv = nn.Conv2d(24, 16, 3, padding=1)
    replace_convolutions(conv)
    conv.weight.requires_grad_(False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        conv(torch.ones(2, 24, 2, 2)).sum().backward()
    assert conv.weight.grad is None
    assert torch.equal(conv.bias.grad, torch.full((16,), 8.0))


def test_only_plain_convolutions_are_replaced():
    class Own(nn.Conv2d):
        pass

    kept = [
        Own(4, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.Conv1d(4, 4, 3),
    ]  # fmt: skip
    net = nn.Sequential(*kept, nn.Conv2d(4, 8, 3), nn.Conv2d(4, 4, 3, groups=4))
    names, classes = list(net.state_dict()), [type(each) for each in kept]
    replace_convolutions(net)
    assert [type(each) for each in kept] == classes
    assert [type(each) for each in net[len(kept) :]] == [ByShape, ByShape]
    assert list(net.state_dict()) == names


@pytest.mark.parametrize(("training", "bf16"), [(False, True), (True, False)])
def test_evaluation_and_float32_have_the_bits_of_torch(training, bf16):
    torch.manual_seed(0)
    conv = nn.Conv2d(24, 16, 3, padding=1).train(training)
    other = copy.deepcopy(conv)
    replace_convolutions(other)
    images, grad = torch.randn(3, 24, 2, 2), torch.randn(3, 16, 2, 2)
    for one, same in zip(
        trained_once(conv, images, grad, bf16=bf16), trained_once(other, images, grad, bf16=bf16), strict=True
    ):
        assert torch.equal(one, same)


@pytest.mark.parametrize(("name", "replaced"), [("alexnet", False), ("torchvision/resnet18", True)])
def test_only_others_nets_are_changed(name, replaced):
    net = build(ModelSettings(name=name, input_size=64), 10)
    initialise(net, InitSettings(), seed=0)
    place(net, "cpu", "torch")
    assert not any(isinstance(each, ByShape) for each in net.modules())
    place(net, "cpu", "by_shape")
    assert any(isinstance(each, ByShape) for each in net.modules()) is replaced
