"""Builds an optimizer with per-layer learning rates that may change, and steps it; its state as named tensors."""

import inspect
import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from workers.models import beside, parts_of, whole_shape
from workers.settings import OptimizerSettings, Velocity
from workers.training.first_order import FUSED, given_arguments, optimizer_class
from workers.training.layer_rates import Phase

MOMENTUM = "momentum_buffer"


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
    heads: Collection[str] = (),
) -> torch.optim.Optimizer:
    """Makes one parameter group for each (learning-rate factors, decay) that occurs; frozen layers get no gradient.

    A group's `scales` are its factors in each phase, the first included. Where torch has a fused form of the optimizer
    (SGD, Adam, AdamW, Adagrad) it is used, on CPUs too; else torch chooses: all weights at once on a GPU, one after
    the other on CPUs.

    Args:
        freeze: layers that never change.
        lr_scale: factors of the learning rate by layer in the first phase.
        later: the phases after it.
        layer_decay: weight decay of single layers, in place of `settings.weight_decay`.
        heads: layers that `settings.layer_lr_decay` leaves at the full rate.
    """
    depth = depth_factors(model, heads, settings.layer_lr_decay)
    groups: dict[tuple[tuple[float, ...], float], list[nn.Parameter]] = {}
    for name, parts in parts_of(model).items():
        layer = layer_of(name)
        for part in parts:
            part.requires_grad_(layer not in freeze)
        if layer in freeze:
            continue
        is_bias = name.endswith(".bias")
        own = (settings.bias_lr_scale if is_bias else 1.0) * depth.get(layer, 1.0)
        scales = tuple(own * factors.get(layer, 1.0) for factors in (lr_scale, *(phase.factors for phase in later)))
        own_decay = (layer_decay or {}).get(layer, settings.weight_decay)
        decays = settings.decay_biases if is_bias else settings.decay_norms or parts[0].ndim > 1
        decay = own_decay if decays else 0.0
        groups.setdefault((scales, decay), []).extend(parts)
    made = _uncompiled(optimizer_class(settings.name))
    given = given_arguments(settings)
    if settings.name in FUSED:
        given["fused"] = True
    every = [{"params": params, "scales": scales, "weight_decay": decay} for (scales, decay), params in groups.items()]
    return made(every, **given)


def _uncompiled(kind: type[Optimizer]) -> type[Optimizer]:
    """Returns torch's class without what loads torch's compiler, which takes 1 s and 150 MB; it steps to the same bits.

    Each call would only tell the compiler to leave it out, and nobody compiles it.
    """
    for name in ("add_param_group", "zero_grad"):
        plain: Any = inspect.unwrap(getattr(kind, name))
        # Where torch keeps the function that it calls.
        plain.__dynamo_disable = plain
    return type(kind.__name__, (kind,), {"step": torch.no_grad()(inspect.unwrap(kind.step))})


def depth_factors(model: nn.Module, heads: Collection[str], decay: float) -> dict[str, float]:
    """Returns each layer's factor of the learning rate: 1 for the heads, `decay`^n for a layer of depth n.

    Layers are counted back from the head in the net's order, from 1. A layer whose first parameter has two dimensions
    or more is one deeper than the next such layer; one with less, as a norm, has the depth of the layer before it. So a
    residual net's shortcuts count too, and a transformer's block is four layers.
    """
    place, places = 0, {}
    for name, parts in parts_of(model).items():
        layer = layer_of(name)
        if layer not in heads and layer not in places:
            place += parts[0].ndim > 1
            places[layer] = max(place, 1)
    return {layer: decay ** (place + 1 - own) for layer, own in places.items()}


class LearningRates:
    """Sets every parameter group's rate before an update, if it changes.

    A group whose factor is 0 gets no gradient, so the optimizer skips it: weights and state stay, nothing decays.

    Torch keeps v without the rate and moves weights by −lr·v. The velocity of 2012 is that move, V = −lr·v. When the
    rate goes from a to b, V is kept by multiplying v by a/b. Then both rules are V ← m·V − b·(g + wd·w), w ← w + V.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, velocity: Velocity, later: Sequence[Phase], last: Sequence[float] = ()
    ) -> None:
        """`later` are the phases `optimizer` was built with; `last` is this class's value when training stopped."""
        self._optimizer = optimizer
        self._keeps_moves = velocity is Velocity.scaled and isinstance(optimizer, torch.optim.SGD)
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
            momentum = [state[MOMENTUM] for state in states if MOMENTUM in state]
            if momentum:
                torch._foreach_mul_(momentum, last / rate)
        return rate


@dataclass(frozen=True)
class Slot:
    """One kind of state of one weight: its name in checkpoints, and `places` for it beside the weight's `parts`.

    SGD's momentum has the name of its weight; other state is `<key>/<weight>`, by torch's keys. A single number, such
    as a count of updates, is the same for all parts and is saved once.
    """

    name: str
    weight: str
    key: str
    parts: tuple[nn.Parameter, ...]
    places: tuple[Tensor, ...]

    @property
    def saved(self) -> tuple[Tensor, ...]:
        return self.places if self.places[0].ndim else self.places[:1]


def slots(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Slot]:
    """Yields what `optimizer` would keep for each weight of `model` after an update, in new memory that is not set."""
    return _slots(model, optimizer, partial(_fresh_state, optimizer))


def state_parts(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[Tensor, ...]]:
    """Returns the state by name, in the weights' own parts; without that of weights that have not moved yet."""
    found = _slots(model, optimizer, lambda part: optimizer.state.get(part, {}))
    return {slot.name: slot.saved for slot in found}


def load_state(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Loads saved state, in each parameter's own memory layout and where the optimizer keeps it."""
    for slot in slots(model, optimizer):
        if slot.name in tensors:
            saved = tensors[slot.name]
            views = beside(slot.places, saved) if saved.ndim else [(place, saved) for place in slot.places]
            for part, (place, value) in zip(slot.parts, views, strict=True):
                optimizer.state[part][slot.key] = place.copy_(value)


def misfit(saved: Mapping[str, np.ndarray], model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Returns why `saved` is not a state of `optimizer`; empty if it is.

    Weights that have not moved yet have no state, others have all of it.
    """
    shapes, weights = {}, {}
    for slot in slots(model, optimizer):
        shapes[slot.name], weights[slot.name] = whole_shape(slot.saved), slot.weight
    for name, value in saved.items():
        if shapes.get(name) != value.shape:
            return f"the optimizer's {name} is {value.shape}, the model wants {shapes.get(name, 'none')}"
    moved = {weights[name] for name in saved}
    gone = [name for name, weight in weights.items() if name not in saved and (weight in moved or not moved)]
    return f"it lacks the optimizer's {gone[0]}" if gone else ""


def _slots(
    model: nn.Module, optimizer: torch.optim.Optimizer, state_of: Callable[[Tensor], Mapping[str, Tensor]]
) -> Iterator[Slot]:
    for weight, parts in parts_of(model).items():
        states = [state_of(part) for part in parts]
        for key in states[0]:
            name = weight if isinstance(optimizer, torch.optim.SGD) else f"{key}/{weight}"
            yield Slot(name, weight, key, parts, tuple(state[key] for state in states))


def _fresh_state(optimizer: torch.optim.Optimizer, part: Tensor) -> dict[str, Tensor]:
    """Returns tensors as the optimizer keeps them for `part`, by key, found by an update of a weight of two a side.

    State has the weight's shape, or is 1 wide where Adafactor keeps means, or is a single number.
    """
    given = inspect.signature(type(optimizer)).parameters
    twin = torch.zeros((2,) * part.ndim, device=part.device, requires_grad=True)
    twin.grad = torch.zeros_like(twin)
    alike = type(optimizer)([twin], **{name: value for name, value in optimizer.defaults.items() if name in given})
    alike.step()
    return {key: _sized(value, part) for key, value in alike.state[twin].items()}


def _sized(value: Tensor, part: Tensor) -> Tensor:
    shape = tuple(size if own == 2 else 1 for own, size in zip(value.shape, part.shape, strict=False))
    return torch.empty_like(part) if shape == part.shape else value.new_empty(shape)


class LossScale:
    """Scales the loss in fp16 by torch's GradScaler (Micikevicius et al. 2018, Mixed Precision Training).

    It holds the scale, and makes the optimizer's step under it, which waits for nothing; does nothing if not `enabled`.

    `unscale` gives gradients their own size, before they are measured and clipped. `state` waits for the device.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device, saved: dict[str, Any], *, enabled: bool) -> None:
        """`saved` is an earlier `state()` or empty; `optimizer` must be fused if `enabled`."""
        scaler = torch.amp.GradScaler(device.type, enabled=enabled)
        self._optimizer, self._scaler, self._one = optimizer, scaler, torch.ones((), device=device)
        self.scale, self.unscale, self.state = scaler.scale, partial(scaler.unscale_, optimizer), scaler.state_dict
        if saved:
            scaler.load_state_dict(saved)
        # Torch's fused SGD would continue with whatever memory held if its first update were skipped.
        for group in optimizer.param_groups if enabled else ():
            for weight in group["params"] if group.get("momentum") else ():
                optimizer.state[weight].setdefault(MOMENTUM, torch.zeros_like(weight))

    def step(self, norm: Tensor) -> Tensor:
        """Moves the weights if all gradients are finite and returns `norm`, else minus the scale that is left."""
        before = self.scale(self._one)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        after = self.scale(self._one)
        return torch.where(after < before, -after, norm) if self._scaler.is_enabled() else norm
