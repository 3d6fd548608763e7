"""Builds models by name, draws their weights and places them."""

import torch
from torch import nn

from workers.models import torchvision_nets
from workers.models.alexnet import AlexNet
from workers.models.cifar_net import CifarNet
from workers.models.fresh import draw
from workers.models.halves import HalvedAlexNet
from workers.models.highway import Highway
from workers.models.layers import TORCHVISION
from workers.models.lenet import LeNet5
from workers.models.outlines import outline
from workers.models.parts import beside, parts_of
from workers.settings import InitSettings, Layout, ModelSettings

_CIFAR_HIDDEN_UNITS = {"cifar_80s": 64, "cifar_18pct": 0}


def build(model: ModelSettings, num_classes: int) -> nn.Module:
    """Builds `model`; what its weights are is left to `initialise` or to a checkpoint.

    Raises:
        ConfigError: no such model, or one that is too deep for its input.
    """
    outline(model, num_classes)
    return construct(model, num_classes)


def construct(model: ModelSettings, num_classes: int) -> nn.Module:
    """Builds `model`, whose settings `outline` has checked (or is about to)."""
    if model.name.startswith(TORCHVISION):
        return torchvision_nets.construct(model.name.removeprefix(TORCHVISION), num_classes)
    if model.name == "lenet5":
        return LeNet5(num_classes)
    if model.name == "highway":
        return Highway(num_classes, model.width)
    if model.name in _CIFAR_HIDDEN_UNITS:
        return CifarNet(model.input_size, num_classes, hidden_units=_CIFAR_HIDDEN_UNITS[model.name])
    return HalvedAlexNet(model, num_classes) if model.layout is Layout.halves else AlexNet(model, num_classes)


def initialise(module: nn.Module, init: InitSettings, seed: int) -> None:
    """Draws all weights of a built model from `seed`; halves get the grouped net's, which is there meanwhile.

    torchvision's models are drawn as torchvision draws them, whatever `init` says.
    """
    if torchvision_nets.is_one(module):
        torchvision_nets.initialise(module, seed)
        return
    generator = torch.Generator().manual_seed(seed % 2**63)
    if not isinstance(module, HalvedAlexNet):
        draw(module, init, generator)
        return
    # In the memory layout that nets are trained in: in its order weights are drawn.
    whole = module.as_grouped().to(memory_format=torch.channels_last)
    draw(whole, init, generator)
    weights = dict(whole.named_parameters())
    with torch.no_grad():
        for name, parts in parts_of(module).items():
            for part, drawn in beside(parts, weights[name]):
                part.copy_(drawn)


def place(module: nn.Module, device: str) -> None:
    """Moves a built model to `device`; halves to a GPU each, where `device` is cuda and there are two."""
    if isinstance(module, HalvedAlexNet):
        module.place(device)
    else:
        module.to(device)
