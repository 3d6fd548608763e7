"""What updates measured, kept on the device that trains and read many at a time.

Reading a number from a GPU waits for all that was asked of it before, and meanwhile nothing new is asked of it.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workers.errors import Diverged


@dataclass(frozen=True)
class EpochSums:
    """Sums over the running epoch; saved, so that a resumed epoch reports the same figures; without skipped updates."""

    loss: float = 0.0
    missed: int = 0
    images: int = 0
    skipped: int = 0


class Readings:
    """Loss, gradient norm and missed labels of the updates since the last reading."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        """Has room for `capacity` updates on `device`."""
        self._values = torch.zeros((capacity, 3), dtype=torch.float64, device=device)
        # Of each update: its number, and how many images it saw.
        self._updates: list[tuple[int, int]] = []

    def record(self, step: int, num_images: int, loss: Tensor, norm: Tensor, missed: Tensor) -> None:
        """Keeps what update `step` measured, scalars on any device, without waiting; `norm` is of `LossScale.step`."""
        row = self._values[len(self._updates)]
        for place, value in zip(row, (loss.detach(), norm, missed), strict=True):
            place.copy_(value, non_blocking=True)
        self._updates.append((step, num_images))

    def read(self, sums: EpochSums) -> EpochSums:
        """Waits for the device and returns `sums` with the recorded updates added, in order.

        Raises:
            Diverged: an update's loss or gradient was not finite, in fp16 even at a scale near 1; it names the first.
        """
        values = self._values[: len(self._updates)].tolist()
        for (step, size), (loss, norm, missed) in zip(self._updates, values, strict=True):
            if norm <= -1:
                sums = replace(sums, skipped=sums.skipped + 1)
                continue
            if not (math.isfinite(loss) and 0 <= norm < math.inf):
                found, give = f"gradient norm {norm}", "set clip_norm"
                if norm < 0:
                    found, give = f"gradients not finite at a loss scale of {-2 * norm:g}", "give precision=fp32"
                raise Diverged(f"update {step}: loss {loss}, {found}; lower optimizer.lr or {give}", step=step)
            sums = EpochSums(sums.loss + loss * size, sums.missed + int(missed), sums.images + size, sums.skipped)
        self._updates.clear()
        return sums
