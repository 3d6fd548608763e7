"""Model names and what they build; user configuration can name nothing else."""

import difflib
from collections.abc import Callable

from torch import nn

from workers.errors import ConfigError
from workers.models.alexnet import AlexNet
from workers.settings import ModelSettings

_BUILDERS: dict[str, Callable[[ModelSettings, int], nn.Module]] = {"alexnet": AlexNet}


def build(model: ModelSettings, num_classes: int) -> nn.Module:
    """Builds `model` with uninitialised weights.

    Raises:
        ConfigError: no such model.
    """
    builder = _BUILDERS.get(model.name)
    if builder is None:
        nearest = difflib.get_close_matches(model.name, _BUILDERS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"model.name={model.name}: no such model; did you mean {nearest}?")
    return builder(model, num_classes)
