"""torchvision's classification models as members: built by name for this dataset's classes, without trained weights."""

from collections.abc import Callable
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import nn

# These have auxiliary classifiers, and warn unless they are told to draw weights from a truncated normal (slow).
_INCEPTIONS = ("googlenet", "inception_v3")
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


def _construct(name: str, num_classes: int) -> nn.Module:
    from torchvision import models

    options = {"aux_logits": True, "init_weights": True} if name in _INCEPTIONS else {}
    module: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    return module
