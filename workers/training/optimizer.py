"""Momentum SGD with per-layer learning rates, and its state as named tensors."""

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from workers.errors import ConfigError
from workers.models.outline import Outline
from workers.models.parts import beside, parts_of
from workers.settings import OptimizerSettings

_MOMENTUM = "momentum_buffer"


def layer_of(parameter: str) -> str:
    """The layer of a parameter's name: `conv1.weight` → `conv1`."""
    return parameter.rpartition(".")[0]


def check_layers(found: Outline, named: Mapping[str, Iterable[str]]) -> None:
    """Refuses names of layers that a model lacks; `named` maps a setting's name to the layers it lists."""
    for setting, listed in named.items():
        for layer in listed:
            if not found.select(layer):
                raise ConfigError(f"{setting}: no layer {layer}; the model has {', '.join(found.layers)}")


def build_optimizer(
    model: nn.Module, settings: OptimizerSettings, freeze: Collection[str], lr_scale: Mapping[str, float]
) -> torch.optim.SGD:
    """One parameter group for each (learning-rate factor, decay) that occurs; frozen layers get no gradient at all."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parts in parts_of(model).items():
        layer = layer_of(name)
        for part in parts:
            part.requires_grad_(layer not in freeze)
        if layer in freeze:
            continue
        decays = settings.decay_biases or not name.endswith(".bias")
        key = (lr_scale.get(layer, 1.0), settings.weight_decay if decays else 0.0)
        groups.setdefault(key, []).extend(parts)
    return torch.optim.SGD(
        [{"params": params, "scale": scale, "weight_decay": decay} for (scale, decay), params in groups.items()],
        lr=settings.lr,
        momentum=settings.momentum,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.SGD, rate: float) -> None:
    """Gives every group `rate` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def momentum_parts(model: nn.Module, optimizer: torch.optim.SGD) -> dict[str, tuple[Tensor, ...]]:
    """The momentum of each trained weight, by name, in parts as the weight is; empty before the first update."""
    return {
        name: tuple(optimizer.state[part][_MOMENTUM] for part in parts)
        for name, parts in parts_of(model).items()
        if _MOMENTUM in optimizer.state.get(parts[0], {})
    }


def load_momentum(model: nn.Module, optimizer: torch.optim.SGD, tensors: Mapping[str, Tensor]) -> None:
    """Puts saved momentum back, in each parameter's own memory layout."""
    for name, parts in parts_of(model).items():
        if name in tensors:
            for part, saved in beside(parts, tensors[name]):
                optimizer.state[part][_MOMENTUM] = torch.empty_like(part).copy_(saved)
