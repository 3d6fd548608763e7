"""Random numbers of an epoch, and the crops, reflections and colour shifts they stand for.

Everything is a function of (seed, epoch), so that a resumed stage needs no generator state.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.data.store import Pixels
from workers.settings import AugmentationSettings

# Of neighbouring images, in a window of a shuffled order.
PIECES = 128
# torch shares work on more bytes than this among its threads, and waking them takes longer than reflecting a crop.
_ONE_THREAD_BYTES = 32_768


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
    """How many images are mixed at a time: a whole number of pieces."""
    return max(1, shuffle_window // PIECES) * PIECES


def _order(generator: np.random.Generator, num_images: int, window: int) -> np.ndarray:
    """[images] int64: all images mixed; or, with a window, pieces of neighbours, the images of some of them mixed.

    A window's pieces lie anywhere, so that each window sees all classes of a store sorted by class.
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


def crop(
    images: np.ndarray | Pixels, chosen: np.ndarray, offsets: np.ndarray, flips: np.ndarray, size: int
) -> np.ndarray:
    """Cuts a `size` × `size` window out of each chosen image and reflects it where `flips` says.

    Args:
        images: [images, side, side, 3] uint8, possibly mapped from a file: only the windows are read.
        chosen: [batch] indices into `images`.
        offsets: [batch, 2] top and left.
        flips: [batch] bool.

    Returns:
        [batch, size, size, 3] uint8.
    """
    crops = np.empty((len(chosen), size, size, 3), dtype=np.uint8)
    places = zip(crops, chosen.tolist(), offsets.tolist(), flips.tolist(), strict=True)
    for target, image, (top, left), reflected in places:
        target[...] = images[image, top : top + size, left : left + size]
        if reflected:
            _reflect(target)
    return crops


def _reflect(pixels: np.ndarray) -> None:
    """Reflects [height, width, 3] uint8 left to right, in place; NumPy alone takes several times as long."""
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
        mean_images: None; or, in place of mean and std, [2, S, S, 3] float32 on the scale 0…255: what is taken off a
            whole image, and off its reflection. Nothing is divided.
    """

    mean: Tensor
    std: Tensor
    components: Tensor
    mean_images: np.ndarray | None = None


@dataclass(frozen=True)
class Windows:
    """Where crops lie in their images.

    Attributes:
        offsets: [batch, 2] int64, top and left.
        flips: [batch] bool, whether the crop was reflected.
    """

    offsets: np.ndarray
    flips: np.ndarray

    @classmethod
    def all_at(cls, place: int, batch: int) -> "Windows":
        """One place for every image of a batch, as top and as left, unreflected."""
        return cls(np.full((batch, 2), place), np.zeros(batch, dtype=bool))


def to_input(
    pixels: np.ndarray, statistics: PixelStatistics, colour: np.ndarray | None, windows: Windows | None = None
) -> Tensor:
    """Normalises uint8 [batch, side, side, 3] to float32 [batch, 3, side, side] in channels_last order.

    The colour shift (Krizhevsky et al. 2012, §4.1) is one constant an image and channel, so it is folded into the
    normalisation's offset.

    Args:
        pixels: whole images, or crops as they come from `crop`.
        statistics: what centres the pixels.
        colour: [batch, 3] float32, multiples of each component; None shifts nothing.
        windows: where the crops lie; None says that these are whole images. Only a mean image depends on it.
    """
    if statistics.mean_images is not None:
        return _less_mean_image(pixels, statistics.mean_images, _shift(statistics, colour), windows)
    batch, height, width, _ = pixels.shape
    offset = (-statistics.mean / statistics.std).expand(batch, 3)
    if colour is not None:
        offset = offset + torch.from_numpy(colour) @ statistics.components.T / statistics.std
    # Rows of width × 3 numbers, not pixels of three: element-wise work on a last axis of three is not vectorised.
    scale = (1.0 / (255.0 * statistics.std)).repeat(width)
    images = torch.from_numpy(pixels).view(batch, height, width * 3).to(torch.float32)
    images.mul_(scale).add_(offset.repeat(1, width)[:, None, :])
    return images.view(batch, height, width, 3).permute(0, 3, 1, 2)


def _shift(statistics: PixelStatistics, colour: np.ndarray | None) -> Tensor | None:
    """[batch, 3] float32: what a colour shift adds on the scale 0…255."""
    return None if colour is None else torch.from_numpy(colour) @ statistics.components.T * 255.0


def _less_mean_image(
    pixels: np.ndarray, mean_images: np.ndarray, shift: Tensor | None, windows: Windows | None
) -> Tensor:
    """Each image less the window of the mean image that it was cut from, reflected where it was."""
    batch, height, width, _ = pixels.shape
    windows = windows or Windows.all_at(0, batch)
    side = mean_images.shape[2]
    images = torch.from_numpy(pixels).to(torch.float32)
    for image, (top, left), flipped in zip(
        images.numpy(), windows.offsets.tolist(), windows.flips.tolist(), strict=True
    ):
        # The reflection of a window begins as far from the left as the window ends from the right.
        first = side - left - width if flipped else left
        image -= mean_images[int(flipped), top : top + height, first : first + width]
    if shift is not None:
        images.view(batch, height, width * 3).add_(shift.repeat(1, width)[:, None, :])
    return images.permute(0, 3, 1, 2)
