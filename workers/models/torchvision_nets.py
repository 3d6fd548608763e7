"""torchvision's classification models as members: built by name with this dataset's classes, never with weights."""

from collections.abc import Callable
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import nn

# These draw slowly by a truncated normal, and warn, unless they are told whether to; they have auxiliary classifiers.
_INCEPTIONS = ("googlenet", "inception_v3")
# How each built net would be built anew: torchvision draws weights while it builds.
_recipes: WeakKeyDictionary[nn.Module, Callable[[], nn.Module]] = WeakKeyDictionary()


def names() -> list[str]:
    """The names that `construct` knows."""
    # Here and not above: other nets need no torchvision, and loading it takes a moment.
    from torchvision import models

    found: list[str] = models.list_models(module=models)
    return found


def construct(name: str, num_classes: int) -> nn.Module:
    """Builds a model with torchvision's own settings, auxiliary classifiers included; they speak in training alone.

    torch's global generator is as before.
    """
    recipe = partial(_construct, name, num_classes)
    with torch.random.fork_rng(devices=[]):
        module = recipe()
    _recipes[module] = recipe
    return module


def is_one(module: nn.Module) -> bool:
    """Whether `construct` has built `module`."""
    return module in _recipes


def initialise(module: nn.Module, seed: int) -> None:
    """Draws all weights as torchvision does, from `seed`; running statistics begin anew.

    torch's global generator is as before.
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
