"""Random numbers of an epoch, and the crops, reflections and colour shifts that they select.

All of them are functions of (seed, epoch), so that a resumed stage needs no generator state.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.data.store import Pixels
from workers.kernels import pixels as kernel
from workers.settings import AugmentationSettings, Sampler

# Runs of neighbouring images in a window of a shuffled order.
PIECES = 128


@dataclass(frozen=True)
class EpochDraws:
    """The random numbers of one epoch, for each position in its order.

    Attributes:
        order: [images] int64, the index of the image at each position.
        offsets: [images, 2] int32, top and left of the crop.
        flips: [images] bool, whether the crop is reflected.
        colour: [images, 3] float32, multiples of each principal component.
        seeds: [images] uint32, from which `Transforms` draws all else.
    """

    order: np.ndarray
    offsets: np.ndarray
    flips: np.ndarray
    colour: np.ndarray
    seeds: np.ndarray


def draw_epoch(
    seed: int,
    epoch: int,
    num_images: int,
    margin: int | np.ndarray,
    augmentation: AugmentationSettings,
    labels: np.ndarray | None = None,
) -> EpochDraws:
    """Draws an epoch's order and augmentation from one Philox generator keyed by (seed, epoch).

    `margin` is that of `Pixels.margins`; an offset lies in 0…margin, both ends included (33 values for 256 − 224).
    Only the balanced sampler reads `labels` [images].
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    order = _order(generator, num_images, augmentation.shuffle_window)
    if augmentation.sampler is Sampler.balanced:
        assert labels is not None
        # By a generator of its own, so that the draws below are those of the shuffled sampler.
        order = _balanced(np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, 0, 2]))), labels)
    if isinstance(margin, int):
        offsets = generator.integers(0, margin + 1, size=(num_images, 2)).astype(np.int32)
    else:
        margin = margin[order]
        offsets = (generator.random((num_images, 2)) * (margin + 1)).astype(np.int32)
    flips = generator.random(num_images) < 0.5
    colour = generator.standard_normal((num_images, 3), dtype=np.float32)
    colour *= np.float32(augmentation.colour_std)
    seeds = generator.integers(2**32, size=num_images, dtype=np.uint32)
    if not augmentation.random_crop:
        offsets[:] = margin // 2
    if not augmentation.reflect:
        flips = np.zeros_like(flips)
    return EpochDraws(order, offsets, flips, colour, seeds)


def _balanced(generator: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Returns an order in which every class has equally many images, or one more.

    A class with too many images gives a random part of them, each once; one with too few gives all of them as often
    as it takes, and a random part once more.
    """
    counts = np.unique(labels, return_counts=True)[1]
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    wanted = generator.permutation((len(labels) + np.arange(len(counts))) // len(counts))
    # `resize` cuts off what is too long, and repeats what is too short.
    chosen = [np.resize(generator.permutation(own), count) for own, count in zip(by_class, wanted, strict=True)]
    return generator.permutation(np.concatenate(chosen))


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
        offsets: [batch, 2] integers, top and left.
        flips: [batch] bool on the device of the pixels, whether the crop is reflected; None for none of them.
    """

    offsets: np.ndarray
    flips: Tensor | None = None

    @classmethod
    def all_at(cls, place: int, batch: int) -> "Windows":
        """Returns windows of a batch that all have `place` as top and left, unreflected."""
        return cls(np.full((batch, 2), place))

    def __getitem__(self, span: slice) -> "Windows":
        return Windows(self.offsets[span], None if self.flips is None else self.flips[span])


def crop(
    images: np.ndarray | Pixels, chosen: np.ndarray, offsets: np.ndarray, size: int, crops: np.ndarray | None = None
) -> np.ndarray:
    """Copies a `size` × `size` window out of each chosen image; `to_input` reflects it.

    Args:
        images: [images, side, side, 3] uint8 or whole images, possibly mapped from a file; only windows are read.
        chosen: [batch] indices into `images`.
        offsets: [batch, 2] integers, top and left of each window.
        size: side of a window in pixels.
        crops: [batch, size, size, 3] uint8 to write to; None for a new array.

    Returns:
        [batch, size, size, 3] uint8.
    """
    crops = np.empty((len(chosen), size, size, 3), dtype=np.uint8) if crops is None else crops
    for target, image, (top, left) in zip(crops, chosen.tolist(), offsets.tolist(), strict=True):
        target[...] = images[image, top : top + size, left : left + size]
    return crops


@dataclass(frozen=True)
class PixelStatistics:
    """Channel mean and standard deviation, and the principal components of colour, on the [0, 1] scale.

    Attributes:
        mean: [3] float32.
        std: [3] float32.
        components: [3, 3] float32, each column an eigenvector of the RGB covariance times the root of its eigenvalue
            (or the eigenvalue).
        mean_image: None; or, in place of mean and std, [S, S, 3] float32 on the scale 0…255, to be subtracted from an
            image without a division.
    """

    mean: Tensor
    std: Tensor
    components: Tensor
    mean_image: Tensor | None = None

    def to(self, device: str) -> "PixelStatistics":
        moved = None if self.mean_image is None else self.mean_image.to(device)
        return PixelStatistics(self.mean.to(device), self.std.to(device), self.components.to(device), moved)


def to_input(
    pixels: Tensor,
    statistics: PixelStatistics,
    colour: Tensor | None = None,
    windows: Windows | None = None,
    place: Tensor | None = None,
) -> Tensor:
    """Reflects and normalises uint8 [batch, side, side, 3] to float32 [batch, 3, side, side] in channels_last order.

    It works on the device of `pixels`, on which `statistics` and `colour` are too, and does not wait for it. The colour
    shift (Krizhevsky et al. 2012, §4.1) is one constant per image and channel, so it is part of the normalisation's
    offset.

    Args:
        pixels: whole images, or crops from `crop`; unchanged.
        statistics: of the training set.
        colour: [batch, 3] float32, multiples of each component; None for no shift.
        windows: the crops' positions and reflections; None for whole images.
        place: [at least batch · side · side · 3] to write to, float32, or on GPUs bf16 or fp16; None for new memory.
    """
    batch, height, width, _ = pixels.shape
    windows = windows or Windows.all_at(0, batch)
    if place is None:
        place = torch.empty(pixels.numel(), dtype=torch.float32, device=pixels.device)
    images = place[: pixels.numel()].view(batch, height, width, 3)
    shift = _shift(statistics, colour)
    if statistics.mean_image is not None:
        images.copy_(pixels)
        for image, (top, left) in zip(images, windows.offsets.tolist(), strict=True):
            image -= statistics.mean_image[top : top + height, left : left + width]
        if windows.flips is not None:
            images.copy_(_reflected(images, windows.flips))
        if shift is not None:
            images.view(batch, height, width * 3).add_((shift * 255.0).repeat(1, width)[:, None, :])
        return images.permute(0, 3, 1, 2)
    scale = 1.0 / (255.0 * statistics.std)
    offsets = (-statistics.mean / statistics.std).expand(batch, 3)
    offsets = offsets if shift is None else offsets + shift / statistics.std
    if kernel.serves(pixels):
        kernel.to_floats(pixels, windows.flips, scale, offsets, images)
    else:
        # Rows of width × 3 numbers, because torch does not vectorise over a last axis of three.
        seen, rows = (each.reshape(batch, height, width * 3) for each in (_reflected(pixels, windows.flips), images))
        scaled = scaled_at_once if pixels.is_cuda else _scaled_in_turn
        scaled(seen, scale.repeat(width), offsets.repeat(1, width)[:, None, :], rows)
    return images.permute(0, 3, 1, 2)


def scaled_at_once(pixels: Tensor, scale: Tensor, offsets: Tensor, output: Tensor) -> None:
    """Writes pixels · scale + offset by one operator, which may round once; `output` may be bfloat16."""
    torch.addcmul(offsets, pixels, scale, out=output)


def _scaled_in_turn(pixels: Tensor, scale: Tensor, offsets: Tensor, output: Tensor) -> None:
    """The same by three operators, with the bits of the compiled kernel."""
    output.copy_(pixels)
    output.mul_(scale).add_(offsets)


def _shift(statistics: PixelStatistics, colour: Tensor | None) -> Tensor | None:
    """Returns each image's shift of colour, [batch, 3] on the [0, 1] scale; in float32 also where the net is not."""
    with torch.autocast(statistics.components.device.type, enabled=False):
        return None if colour is None else colour @ statistics.components.T


def _reflected(images: Tensor, flips: Tensor | None) -> Tensor:
    """Returns [batch, height, width, 3] with the images of `flips` [batch] reflected left to right."""
    return images if flips is None else torch.where(flips[:, None, None, None], images.flip(2), images)
