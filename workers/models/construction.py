"""Builds checked models, draws their weights and places them."""

import torch
from torch import nn

from workers.models import torchvision_nets
from workers.models.fresh import draw
from workers.models.halves import HalvedAlexNet
from workers.models.nets import construct
from workers.models.outlines import outline
from workers.models.parts import beside, parts_of
from workers.settings import InitSettings, ModelSettings


def build(model: ModelSettings, num_classes: int) -> nn.Module:
    """Builds `model`; what its weights are is left to `initialise` or to a checkpoint.

    Raises:
        ConfigError: no such model, or one that is too deep for its input.
    """
    outline(model, num_classes)
    return construct(model, num_classes)


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
