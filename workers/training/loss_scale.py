"""Scales the loss in fp16 by torch's GradScaler (Micikevicius et al. 2018, Mixed Precision Training)."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from workers.training.optimizer import MOMENTUM


class LossScale:
    """The scale, and the optimizer's step under it, which waits for nothing; does nothing if not `enabled`.

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
