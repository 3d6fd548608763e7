"""Momentum SGD with per-layer learning rates, and its state as named tensors."""

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from workers.errors import ConfigError
from workers.models.outline import Outline
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
    for name, parameter in model.named_parameters():
        layer = layer_of(name)
        parameter.requires_grad_(layer not in freeze)
        if not parameter.requires_grad:
            continue
        decays = settings.decay_biases or not name.endswith(".bias")
        key = (lr_scale.get(layer, 1.0), settings.weight_decay if decays else 0.0)
        groups.setdefault(key, []).append(parameter)
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


def momentum_tensors(model: nn.Module, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """The momentum of each trained parameter, by name; empty before the first update."""
    return {
        name: optimizer.state[parameter][_MOMENTUM]
        for name, parameter in model.named_parameters()
        if _MOMENTUM in optimizer.state.get(parameter, {})
    }


def load_momentum(model: nn.Module, optimizer: torch.optim.SGD, tensors: Mapping[str, Tensor]) -> None:
    """Puts saved momentum back, in each parameter's own memory layout."""
    for name, parameter in model.named_parameters():
        if name in tensors:
            optimizer.state[parameter][_MOMENTUM] = torch.empty_like(parameter).copy_(tensors[name])
