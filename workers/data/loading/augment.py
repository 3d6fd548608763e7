"""Random numbers of an epoch, and the crops, reflections and colour shifts that they select.

All of them are functions of (seed, epoch), so that a resumed stage needs no generator state.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.data.store import Pixels
from workers.settings import AugmentationSettings

# Runs of neighbouring images in a window of a shuffled order.
PIECES = 128
# torch splits work on more bytes among its threads, and waking those takes longer than reflecting a crop.
_ONE_THREAD_BYTES = 32_768


@dataclass(frozen=True)
class EpochDraws:
    """The random numbers of one epoch, for each position in its order.

    Attributes:
        order: [images] int64, the index of the image at each position.
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
    order = _order(generator, num_images, augmentation.shuffle_window)
    offsets = generator.integers(0, margin + 1, size=(num_images, 2))
    flips = generator.random(num_images) < 0.5
    colour = generator.standard_normal((num_images, 3), dtype=np.float32)
    if not augmentation.random_crop:
        offsets = np.full_like(offsets, margin // 2)
    if not augmentation.reflect:
        flips = np.zeros_like(flips)
    return EpochDraws(order, offsets, flips, colour * np.float32(augmentation.colour_std))


def window_images(shuffle_window: int) -> int:
    """Returns the number of images that are mixed at a time, a multiple of PIECES."""
    return max(1, shuffle_window // PIECES) * PIECES


def _order(generator: np.random.Generator, num_images: int, window: int) -> np.ndarray:
    """Returns all images in random order, [images] int64; with a window, only PIECES random pieces are mixed at a time.

    A piece is a run of neighbours. A window's pieces come from the whole store, so each window sees all classes of a
    store sorted by class.
    """
    if window == 0 or window >= num_images:
        return generator.permutation(num_images)
    piece = window_images(window) // PIECES
    starts = generator.permutation(-(-num_images // piece)) * piece
    order = (starts[:, None] + np.arange(piece)).ravel()
    order = order[order < num_images]
    for start in range(0, num_images, piece * PIECES):
        generator.shuffle(order[start : start + piece * PIECES])
    return order


@dataclass(frozen=True)
class Windows:
    """The positions of crops in their images.

    Attributes:
        offsets: [batch, 2] int64, top and left.
        flips: [batch] bool, whether the crop was reflected.
    """

    offsets: np.ndarray
    flips: np.ndarray

    @classmethod
    def all_at(cls, place: int, batch: int) -> "Windows":
        """Returns windows of a batch that all have `place` as top and left, unreflected."""
        return cls(np.full((batch, 2), place), np.zeros(batch, dtype=bool))


def crop(images: np.ndarray | Pixels, chosen: np.ndarray, windows: Windows, size: int) -> np.ndarray:
    """Cuts a `size` × `size` window out of each chosen image and reflects it if its window says so.

    Args:
        images: [images, side, side, 3] uint8, possibly mapped from a file; only the windows are read.
        chosen: [batch] indices into `images`.
        windows: of the batch.

    Returns:
        [batch, size, size, 3] uint8.
    """
    crops = np.empty((len(chosen), size, size, 3), dtype=np.uint8)
    places = zip(crops, chosen.tolist(), windows.offsets.tolist(), windows.flips.tolist(), strict=True)
    for target, image, (top, left), reflected in places:
        target[...] = images[image, top : top + size, left : left + size]
        if reflected:
            _reflect(target)
    return crops


def _reflect(pixels: np.ndarray) -> None:
    """Reflects [height, width, 3] uint8 left to right in place, by torch, several times as fast as NumPy."""
    num_rows = max(1, _ONE_THREAD_BYTES // (pixels.shape[1] * 3))
    for start in range(0, len(pixels), num_rows):
        rows = pixels[start : start + num_rows]
        rows[...] = torch.from_numpy(rows).flip(1).numpy()


@dataclass(frozen=True)
class PixelStatistics:
    """Channel mean and standard deviation, and the principal components of colour, on the [0, 1] scale.

    Attributes:
        mean: [3] float32.
        std: [3] float32.
        components: [3, 3] float32, each column an eigenvector of the RGB covariance times the root of its eigenvalue
            (or the eigenvalue).
        mean_images: None; or, in place of mean and std, [2, S, S, 3] float32 on the scale 0…255, to be subtracted from
            a whole image and from its reflection without a division.
    """

    mean: Tensor
    std: Tensor
    components: Tensor
    mean_images: np.ndarray | None = None


def to_input(
    pixels: np.ndarray, statistics: PixelStatistics, colour: np.ndarray | None, windows: Windows | None = None
) -> Tensor:
    """Normalises uint8 [batch, side, side, 3] to float32 [batch, 3, side, side] in channels_last order.

    The colour shift (Krizhevsky et al. 2012, §4.1) is one constant per image and channel, so it is part of the
    normalisation's offset.

    Args:
        pixels: whole images, or crops from `crop`.
        statistics: of the training set.
        colour: [batch, 3] float32, multiples of each component; None for no shift.
        windows: the crops' positions, which only a mean image needs; None for whole images.
    """
    batch, height, width, _ = pixels.shape
    if statistics.mean_images is not None:
        images = _less_mean_image(pixels, statistics.mean_images, windows or Windows.all_at(0, batch))
        if colour is not None:
            shift = torch.from_numpy(colour) @ statistics.components.T * 255.0
            images.view(batch, height, width * 3).add_(shift.repeat(1, width)[:, None, :])
        return images.permute(0, 3, 1, 2)
    offset = (-statistics.mean / statistics.std).expand(batch, 3)
    if colour is not None:
        offset = offset + torch.from_numpy(colour) @ statistics.components.T / statistics.std
    # Rows of width × 3 numbers, because torch does not vectorise over a last axis of three.
    scale = (1.0 / (255.0 * statistics.std)).repeat(width)
    images = torch.from_numpy(pixels).view(batch, height, width * 3).to(torch.float32)
    images.mul_(scale).add_(offset.repeat(1, width)[:, None, :])
    return images.view(batch, height, width, 3).permute(0, 3, 1, 2)


def _less_mean_image(pixels: np.ndarray, mean_images: np.ndarray, windows: Windows) -> Tensor:
    """Subtracts from each crop its window of the mean image: [batch, height, width, 3] float32."""
    _, height, width, _ = pixels.shape
    side = mean_images.shape[2]
    images = torch.from_numpy(pixels).to(torch.float32)
    places = zip(images.numpy(), windows.offsets.tolist(), windows.flips.tolist(), strict=True)
    for image, (top, left), flipped in places:
        # A reflected window starts as far from the left as the window ends from the right.
        first = side - left - width if flipped else left
        image -= mean_images[int(flipped), top : top + height, first : first + width]
    return images
