"""Builds checked models, draws their weights and places them."""

import torch
from torch import nn

from workers.models import builders
from workers.models.fresh import draw
from workers.models.halves import HalvedAlexNet
from workers.models.nets import construct
from workers.models.outlines import outline
from workers.models.parts import fill, parts_of
from workers.models.replacements import replace_convolutions, replace_poolings
from workers.settings import InitSettings, ModelSettings


def build(model: ModelSettings, num_classes: int) -> nn.Module:
    """Builds `model`; its weights are undefined until `initialise` draws them or a checkpoint is loaded.

    Raises:
        ConfigError: there is no such model, its builder fails, or it is too deep for its input.
    """
    outline(model, num_classes)
    return construct(model, num_classes)


def initialise(module: nn.Module, init: InitSettings, seed: int) -> None:
    """Draws all weights of a built model from `seed`; halves get those of the grouped net.

    Others' models ignore `init`: their builders draw their weights.
    """
    if builders.is_one(module):
        builders.initialise(module, seed)
        return
    generator = torch.Generator().manual_seed(seed % 2**63)
    if not isinstance(module, HalvedAlexNet):
        draw(module, init, generator)
        return
    # Weights are drawn in the order of memory, so the layout must be that of training.
    whole = module.as_grouped().to(memory_format=torch.channels_last)
    draw(whole, init, generator)
    fill(parts_of(module), dict(whole.named_parameters()))


def place(module: nn.Module, device: str, convolutions: str = "torch") -> None:
    """Moves a built model to `device`; if that is "cuda" and there are two GPUs, each half to its own.

    On GPUs, others' poolings that torch would refuse are replaced by equal ones; on CPUs "by_shape", slow convolutions.
    """
    if isinstance(module, HalvedAlexNet):
        module.place(device)
    else:
        module.to(device)
        if device.startswith("cuda") and builders.is_one(module):
            replace_poolings(module)
        elif convolutions == "by_shape" and builders.is_one(module):
            replace_convolutions(module)
