"""Mixes each image of a shard and its label with the one before it: mixup and cutmix, as torchvision's v2 does."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.settings import AugmentationSettings


@dataclass(frozen=True)
class Mix:
    """How a shard is mixed: an image keeps `share` of its label, and of each pixel, or all of those outside `box`."""

    share: float
    box: tuple[slice, slice] | None = None

    def images(self, own: Tensor) -> Tensor:
        """Returns mixed images, [images, 3, side, side], in the memory of their `own`."""
        others = own.roll(1, 0)
        if self.box is None:
            return own.mul_(self.share).add_(others.mul_(1.0 - self.share))
        own[:, :, *self.box] = others[:, :, *self.box]
        return own

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """Returns mixed labels, [images, classes] float32; torch's `one_hot` would wait for them."""
        return self.rows((labels[:, None] == torch.arange(num_classes, device=labels.device)).float())

    def rows(self, own: Tensor) -> Tensor:
        """Returns mixed probabilities, [images, classes] float32."""
        return own.roll(1, 0).mul_(1.0 - self.share).add_(own.mul(self.share))


def draw_mix(seed: int, step: int, size: int, augmentation: AugmentationSettings, shard: int) -> Mix | None:
    """Draws from (seed, step, shard) how crops of `size` pixels are mixed; returns None if they are not."""
    switched_on = [(alpha, name) for name in ("mixup", "cutmix") if (alpha := getattr(augmentation, name)) > 0]
    if not switched_on:
        return None
    # The last number tells this generator from those of epochs and dropout.
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step, shard, 1])))
    alpha, name = switched_on[generator.integers(len(switched_on))]
    share = float(generator.beta(alpha, alpha))
    if name == "mixup":
        return Mix(share)
    half = int(0.5 * (1.0 - share) ** 0.5 * size)
    rows, columns = (slice(max(at - half, 0), min(at + half, size)) for at in generator.integers(size, size=2).tolist())
    # Of the box as the edge cuts it.
    return Mix(1.0 - (rows.stop - rows.start) * (columns.stop - columns.start) / size**2, (rows, columns))
