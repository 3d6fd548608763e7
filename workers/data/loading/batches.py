"""Batches of one split, each a function of (seed, epoch, index), so that any can be drawn without those before it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.data.loading.augment import EpochDraws, PixelStatistics, Windows, crop, draw_epoch, to_input, window_images
from workers.data.store import Pixels, Store
from workers.settings import AugmentationSettings, ColourScale, Normalisation

# The channel statistics that torchvision's models use, on the [0, 1] scale.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Reading ahead costs a few microseconds an image, which is not worth it for a split that stays in memory.
_READ_AHEAD_FROM_BYTES = 2 << 30


@dataclass(frozen=True)
class Batch:
    """Normalised float32 images [batch, 3, size, size] and int64 labels [batch]."""

    images: Tensor
    labels: Tensor


def pixel_statistics(store: Store, augmentation: AugmentationSettings) -> PixelStatistics:
    """Returns the statistics that `augmentation` normalises and colours the pixels of `store` with."""
    imagenet = augmentation.normalisation is Normalisation.imagenet
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if imagenet else (store.mean, store.std)
    lengths = np.maximum(np.asarray(store.eigenvalues, dtype=np.float64), 0.0)
    if augmentation.colour_scale is ColourScale.root:
        lengths = np.sqrt(lengths)
    components = (np.asarray(store.eigenvectors, dtype=np.float64) * lengths).astype(np.float32)
    mean_images = None
    if augmentation.normalisation is Normalisation.mean_image:
        mean_image = store.mean_image()
        mean_images = np.stack([mean_image, mean_image[:, ::-1]])
    return PixelStatistics(
        mean_images=mean_images,
        mean=torch.tensor(np.asarray(mean), dtype=torch.float32),
        std=torch.tensor(np.asarray(std), dtype=torch.float32).clamp_min(1e-6),
        components=torch.from_numpy(components),
    )


def num_batches(num_images: int, batch_size: int) -> int:
    """Returns the batches per epoch; the last one may be short."""
    return -(-num_images // batch_size)


class ReadAhead:
    """Makes the kernel read the next images while training runs.

    Without it, training on a store larger than memory would wait for every image.
    """

    def __init__(self, images: Pixels, ahead: int, least_bytes: int = _READ_AHEAD_FROM_BYTES) -> None:
        """Reads `ahead` images at a time, that many before they are due; nothing if pixels are below `least_bytes`."""
        self._images, self._ahead = images, ahead
        self._useful = math.prod(images.shape) >= least_bytes
        self._order, self._asked = np.empty(0, np.int64), 0

    def to(self, order: np.ndarray, position: int) -> None:
        """Requests the images that follow `position` in `order`."""
        if not self._useful:
            return
        if order is not self._order:
            self._order, self._asked = order, position
        due = (position // self._ahead + 2) * self._ahead
        if self._asked < due:
            # One request for each run of neighbours, of which a window's order has many.
            coming = np.sort(order[self._asked : due])
            for piece in np.split(coming, np.flatnonzero(np.diff(coming) > 1) + 1):
                if len(piece):
                    self._images.will_need(int(piece[0]), int(piece[-1]) + 1)
            self._asked = due


class TrainingBatches:
    """The training split in shuffled, augmented batches of `batch_size`; the last one of an epoch may be short."""

    def __init__(
        self,
        store: Store,
        statistics: PixelStatistics,
        augmentation: AugmentationSettings,
        *,
        seed: int,
        batch_size: int,
        input_size: int,
        colour_epochs: int | None = None,
    ) -> None:
        """Opens the split; colours are shifted in the first `colour_epochs` epochs, None for all."""
        self._images, labels = store.images("train"), store.labels("train")
        assert labels is not None
        self._labels, self._statistics, self._augmentation = labels, statistics, augmentation
        self._seed, self._batch_size, self._input_size = seed, batch_size, input_size
        self._colour_epochs = colour_epochs
        self._epoch, self._draws = -1, EpochDraws(*(np.empty(0),) * 4)
        window = augmentation.shuffle_window
        self._read_ahead = ReadAhead(self._images, window_images(window) if window else batch_size)

    @property
    def per_epoch(self) -> int:
        return num_batches(len(self._labels), self._batch_size)

    def draw(self, epoch: int, index: int) -> Batch:
        """Draws batch `index` of `epoch`."""
        if epoch != self._epoch:
            margin = self._images.shape[1] - self._input_size
            self._draws = draw_epoch(self._seed, epoch, len(self._labels), margin, self._augmentation)
            self._epoch = epoch
        span = slice(index * self._batch_size, (index + 1) * self._batch_size)
        self._read_ahead.to(self._draws.order, span.start)
        chosen = self._draws.order[span]
        windows = Windows(self._draws.offsets[span], self._draws.flips[span])
        pixels = crop(self._images, chosen, windows, self._input_size)
        shifts = self._augmentation.colour_std > 0 and (self._colour_epochs is None or epoch < self._colour_epochs)
        # Drawn even if not used, so that the epoch's other draws do not depend on it.
        colour = self._draws.colour[span] if shifts else None
        return Batch(to_input(pixels, self._statistics, colour, windows), torch.from_numpy(self._labels[chosen]))


def centre_batches(
    store: Store, split: str, statistics: PixelStatistics, input_size: int, batch_size: int = 256
) -> Iterator[Batch]:
    """Yields the centre crops of a labelled split, in row order."""
    images, labels = store.images(split), store.labels(split)
    assert labels is not None
    first = (images.shape[1] - input_size) // 2
    last = first + input_size
    for start in range(0, len(images), batch_size):
        pixels = np.ascontiguousarray(images[start : start + batch_size, first:last, first:last])
        windows = Windows.all_at(first, len(pixels))
        images_in = to_input(pixels, statistics, None, windows)
        yield Batch(images_in, torch.from_numpy(labels[start : start + batch_size].copy()))
