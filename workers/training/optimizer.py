"""Builds momentum SGD with per-layer learning rates that may change, and reads its state as named tensors."""

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workers.models import beside, parts_of
from workers.settings import OptimizerSettings, Velocity
from workers.training.layer_rates import Phase

_MOMENTUM = "momentum_buffer"


def layer_of(parameter: str) -> str:
    """Returns the layer of a parameter's name: `conv1.weight` → `conv1`."""
    return parameter.rpartition(".")[0]


def build_optimizer(
    model: nn.Module,
    settings: OptimizerSettings,
    freeze: Collection[str],
    lr_scale: Mapping[str, float],
    later: Sequence[Phase] = (),
    layer_decay: Mapping[str, float] | None = None,
) -> torch.optim.SGD:
    """Makes one parameter group for each (learning-rate factors, decay) that occurs; frozen layers get no gradient.

    A group's `scales` are its factors in each phase, the first included.

    Args:
        freeze: layers that never change.
        lr_scale: factors of the learning rate by layer in the first phase.
        later: the phases after it.
        layer_decay: weight decay of single layers, in place of `settings.weight_decay`.
    """
    groups: dict[tuple[tuple[float, ...], float], list[nn.Parameter]] = {}
    for name, parts in parts_of(model).items():
        layer = layer_of(name)
        for part in parts:
            part.requires_grad_(layer not in freeze)
        if layer in freeze:
            continue
        is_bias = name.endswith(".bias")
        own = settings.bias_lr_scale if is_bias else 1.0
        scales = tuple(own * factors.get(layer, 1.0) for factors in (lr_scale, *(phase.factors for phase in later)))
        own_decay = (layer_decay or {}).get(layer, settings.weight_decay)
        decay = own_decay if settings.decay_biases or not is_bias else 0.0
        groups.setdefault((scales, decay), []).extend(parts)
    return torch.optim.SGD(
        [{"params": params, "scales": scales, "weight_decay": decay} for (scales, decay), params in groups.items()],
        lr=settings.lr,
        momentum=settings.momentum,
        fused=True,
    )


class LearningRates:
    """Sets every parameter group's rate before an update, if it changes.

    A group whose factor is 0 gets no gradient, so the optimizer skips it: weights and momentum stay, nothing decays.

    Torch keeps v without the rate and moves weights by −lr·v. The velocity of 2012 is that move, V = −lr·v. When the
    rate goes from a to b, V is kept by multiplying v by a/b. Then both rules are V ← m·V − b·(g + wd·w), w ← w + V.
    """

    def __init__(
        self, optimizer: torch.optim.SGD, velocity: Velocity, later: Sequence[Phase], last: Sequence[float] = ()
    ) -> None:
        """`later` are the phases `optimizer` was built with; `last` is this class's value when training stopped."""
        self._optimizer = optimizer
        self._keeps_moves = velocity is Velocity.scaled
        self._begins = [phase.begin for phase in later]
        # The rate at which each group last moved, which its momentum belongs to; 0 if it never did.
        self.last: tuple[float, ...] = tuple(last) or (0.0,) * len(optimizer.param_groups)
        self._rate, self._until = math.nan, 0.0

    def set(self, rate: float, step: int) -> None:
        """Sets the rates of update `step` (from 0): `rate` times each group's factor."""
        if rate == self._rate and step < self._until:
            return
        phase = bisect_right(self._begins, step)
        self._rate, self._until = rate, (*self._begins, math.inf)[phase]
        groups = self._optimizer.param_groups
        self.last = tuple(
            self._set_group(group, last, rate * group["scales"][phase])
            for group, last in zip(groups, self.last, strict=True)
        )

    def _set_group(self, group: dict[str, Any], last: float, rate: float) -> float:
        group["lr"] = rate
        for parameter in group["params"]:
            parameter.requires_grad_(rate > 0)
        if rate == 0:
            return last
        if self._keeps_moves and last > 0 and rate != last:
            states = (self._optimizer.state.get(parameter, {}) for parameter in group["params"])
            momentum = [state[_MOMENTUM] for state in states if _MOMENTUM in state]
            if momentum:
                torch._foreach_mul_(momentum, last / rate)
        return rate


def momentum_parts(model: nn.Module, optimizer: torch.optim.SGD) -> dict[str, tuple[Tensor, ...]]:
    """Returns the momentum of each trained weight by name, in the weight's own parts; empty before the first update."""
    return {
        name: tuple(optimizer.state[part][_MOMENTUM] for part in parts)
        for name, parts in parts_of(model).items()
        if _MOMENTUM in optimizer.state.get(parts[0], {})
    }


def load_momentum(model: nn.Module, optimizer: torch.optim.SGD, tensors: Mapping[str, Tensor]) -> None:
    """Loads saved momentum, in each parameter's own memory layout."""
    for name, parts in parts_of(model).items():
        if name in tensors:
            for part, saved in beside(parts, tensors[name]):
                optimizer.state[part][_MOMENTUM] = torch.empty_like(part).copy_(saved)
