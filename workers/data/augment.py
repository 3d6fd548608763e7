"""Random numbers of an epoch, and the crops, reflections and colour shifts they stand for.

Everything is a function of (seed, epoch), so that a resumed stage needs no generator state.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.settings import AugmentationSettings


@dataclass(frozen=True)
class EpochDraws:
    """What one epoch draws for each position in its order.

    Attributes:
        order: [images] int64, which image stands at each position.
        offsets: [images, 2] int64, top and left of the crop.
        flips: [images] bool, whether the crop is reflected.
        colour: [images, 3] float32, multiples of each principal component.
    """

    order: np.ndarray
    offsets: np.ndarray
    flips: np.ndarray
    colour: np.ndarray


def draw_epoch(seed: int, epoch: int, num_images: int, margin: int, augmentation: AugmentationSettings) -> EpochDraws:
    """Draws an epoch's order and augmentation from one Philox generator keyed by (seed, epoch).

    `margin` is image side − crop side; an offset lies in 0…margin, both ends included (33 values for 256 − 224).
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    order = generator.permutation(num_images)
    offsets = generator.integers(0, margin + 1, size=(num_images, 2))
    flips = generator.random(num_images) < 0.5
    colour = generator.standard_normal((num_images, 3), dtype=np.float32)
    if not augmentation.random_crop:
        offsets = np.full_like(offsets, margin // 2)
    if not augmentation.reflect:
        flips = np.zeros_like(flips)
    return EpochDraws(order, offsets, flips, colour * np.float32(augmentation.colour_std))


def crop(images: np.ndarray, offsets: np.ndarray, flips: np.ndarray, size: int) -> np.ndarray:
    """Cuts a `size` × `size` window out of each image and reflects where `flips` says.

    Args:
        images: [batch, side, side, 3] uint8.
        offsets: [batch, 2] top and left.
        flips: [batch] bool.

    Returns:
        [batch, size, size, 3] uint8.
    """
    crops = np.empty((len(images), size, size, 3), dtype=np.uint8)
    for index, ((top, left), flip) in enumerate(zip(offsets.tolist(), flips.tolist(), strict=True)):
        window = images[index, top : top + size, left : left + size]
        crops[index] = window[:, ::-1] if flip else window
    return crops


@dataclass(frozen=True)
class PixelStatistics:
    """Channel mean and standard deviation, and the principal components of colour, on the [0, 1] scale.

    Attributes:
        mean: [3] float32.
        std: [3] float32.
        components: [3, 3] float32, each column an eigenvector of the RGB covariance times the root of its eigenvalue.
    """

    mean: Tensor
    std: Tensor
    components: Tensor


def to_input(pixels: np.ndarray, statistics: PixelStatistics, colour: np.ndarray | None) -> Tensor:
    """Normalises uint8 [batch, side, side, 3] to float32 [batch, 3, side, side] in channels_last order.

    The colour shift (Krizhevsky et al. 2012, §4.1) is one constant an image and channel, so it is folded into the
    normalisation's offset.
    """
    scale = 1.0 / (255.0 * statistics.std)
    offset = -statistics.mean / statistics.std
    images = torch.from_numpy(pixels).to(torch.float32).mul_(scale)
    if colour is None:
        images.add_(offset)
    else:
        shift = torch.from_numpy(colour) @ statistics.components.T / statistics.std
        images.add_((offset + shift)[:, None, None, :])
    return images.permute(0, 3, 1, 2)
