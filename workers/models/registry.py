"""Model names and what they build; user configuration can name nothing else."""

import torch
from torch import nn

from workers.models.alexnet import AlexNet
from workers.models.alexnet import initialise as initialise_alexnet
from workers.models.outline import outline
from workers.settings import InitSettings, ModelSettings


def build(model: ModelSettings, num_classes: int) -> nn.Module:
    """Builds `model`; what its weights are is left to `initialise` or to a checkpoint.

    Raises:
        ConfigError: no such model, or one that is too deep for its input.
    """
    outline(model, num_classes)
    return AlexNet(model, num_classes)


def initialise(module: nn.Module, init: InitSettings, seed: int) -> None:
    """Draws all weights of a built model from `seed`."""
    assert isinstance(module, AlexNet)
    initialise_alexnet(module, init, torch.Generator().manual_seed(seed % 2**63))
