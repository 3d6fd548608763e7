"""torchvision's classification models as members: built by name for this dataset's classes, without trained weights."""

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.utils import _pair

# These have auxiliary classifiers, and warn unless they are told to draw weights from a truncated normal (slow). Their
# published weights are from a framework with pixels in [-1, 1].
INCEPTIONS = ("googlenet", "inception_v3")
# Builds the same net again, since torchvision draws weights while it builds.
_recipes: WeakKeyDictionary[nn.Module, Callable[[], nn.Module]] = WeakKeyDictionary()


def names() -> list[str]:
    """Returns the names that `construct` takes."""
    # Imported here, because other nets do not need torchvision.
    from torchvision import models

    found: list[str] = models.list_models(module=models)
    return found


def construct(name: str, num_classes: int) -> nn.Module:
    """Builds a model with torchvision's settings and auxiliary classifiers; torch's global generator is unchanged."""
    recipe = partial(_construct, name, num_classes)
    with torch.random.fork_rng(devices=[]):
        module = recipe()
    _recipes[module] = recipe
    return module


def is_one(module: nn.Module) -> bool:
    """Returns whether `construct` built `module`."""
    return module in _recipes


def initialise(module: nn.Module, seed: int) -> None:
    """Draws all weights from `seed` as torchvision does, and resets running statistics.

    torch's global generator is unchanged.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed % 2**63)
        fresh = _recipes[module]()
    module.load_state_dict(fresh.state_dict())


class AveragePool(nn.Module):
    """Equal to `torch.nn.AdaptiveAvgPool2d(size)`, by products with two matrices: their gradients are deterministic.

    It computes in float32, also under autocast. Has never run on a GPU.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: Tensor) -> Tensor:
        """Takes [batch, channels, height, width], returns [batch, channels, *size]."""
        if maps.shape[2:] == self.size:
            return maps
        rows, columns = (_means(*sizes, maps.device) for sizes in zip(maps.shape[2:], self.size, strict=True))
        with torch.autocast(maps.device.type, enabled=False):
            return torch.einsum("nchw,oh,pw->ncop", maps.float(), rows, columns).to(maps.dtype)


def _means(inputs: int, outputs: int, device: torch.device) -> Tensor:
    """Returns [outputs, inputs]: output i is the mean from ⌊i · inputs / outputs⌋ to ⌈(i + 1) · inputs / outputs⌉."""
    index, seen = torch.arange(outputs, device=device)[:, None], torch.arange(inputs, device=device)
    inside = (seen >= index * inputs // outputs) & (seen < ((index + 1) * inputs + outputs - 1) // outputs)
    return inside / inside.sum(1, keepdim=True)


def replace_poolings(module: nn.Module) -> None:
    """Replaces the poolings whose gradient torch refuses to compute on a GPU (AlexNet, VGG, GoogLeNet); keeps names."""
    from torchvision.models.googlenet import InceptionAux

    for name, child in tuple(module.named_modules()):
        # torch computes a pooling to one pixel as a mean.
        if isinstance(child, nn.AdaptiveAvgPool2d) and (size := _pair(child.output_size)) != (1, 1):
            module.set_submodule(name, AveragePool(size))
        elif isinstance(child, InceptionAux):
            child.forward = partial(_auxiliary_logits, child, AveragePool((4, 4)))


def _auxiliary_logits(classifier: Any, pool: AveragePool, maps: Tensor) -> Tensor:
    """Computes GoogLeNet's auxiliary classifier as torchvision does, with another pooling."""
    hidden = classifier.conv(pool(maps)).flatten(1)
    hidden = classifier.dropout(functional.relu(classifier.fc1(hidden), inplace=True))
    logits: Tensor = classifier.fc2(hidden)
    return logits


def _construct(name: str, num_classes: int) -> nn.Module:
    from torchvision import models

    options = {"aux_logits": True, "init_weights": True} if name in INCEPTIONS else {}
    module: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    return module
