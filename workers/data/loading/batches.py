"""Batches of one split, each a function of (seed, epoch, index), so that any can be drawn without those before it.

Pixels stay uint8 until they are on the device that trains. They are cut into buffers that are used again, page-locked
where a GPU reads them, as many batches ahead as is told.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from workers.data.loading.augment import EpochDraws, PixelStatistics, Windows, crop, draw_epoch, to_input, window_images
from workers.data.loading.teachers import Teachers
from workers.data.loading.transforms import Transforms
from workers.data.store import Pixels, Store, open_store
from workers.protocol import Normaliser, Numerics
from workers.settings import AugmentationSettings, ColourScale, Normalisation

# The channel statistics that torchvision's models use, on the [0, 1] scale.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Reading ahead costs a few microseconds an image, which is not worth it for a split that stays in memory.
_READ_AHEAD_FROM_BYTES = 2 << 30
# Two batches for each of eight threads, which draw one in less than a millisecond (docs/gpus.md).
_MOST_AHEAD = 16


@dataclass(frozen=True)
class Batch:
    """Crops as they lie in the store, and all that turns them into what the net sees.

    Attributes:
        pixels: [batch, size, size, 3] uint8, on the device that trains; it may be a buffer that the next batch reuses.
        labels: [batch] int64, on the same device.
        windows: positions, and reflections on the same device.
        colour: [batch, 3] float32, or None for no shift.
        statistics: what pixels are normalised by.
        taught: [batch, classes] float32, what teachers say, or None without teachers.
    """

    pixels: Tensor
    labels: Tensor
    windows: Windows
    colour: Tensor | None
    statistics: PixelStatistics
    taught: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, span: slice) -> "Batch":
        colour, taught = (None if each is None else each[span] for each in (self.colour, self.taught))
        pixels, labels, windows = self.pixels[span], self.labels[span], self.windows[span]
        return replace(self, pixels=pixels, labels=labels, windows=windows, colour=colour, taught=taught)

    @property
    def images(self) -> Tensor:
        """Makes normalised float32 images, [batch, 3, size, size]."""
        return self.images_in(None)

    def images_in(self, place: Tensor | None) -> Tensor:
        """Makes them in the memory of `place`; see `to_input`."""
        return to_input(self.pixels, self.statistics, self.colour, self.windows, place)

    def to(self, device: str) -> "Batch":
        """Sends the batch without waiting for the device."""
        if self.pixels.device == torch.device(device):
            return self
        pixels, labels = (each.to(device, non_blocking=True) for each in (self.pixels, self.labels))
        colour, flips, taught = (
            None if each is None else each.to(device, non_blocking=True)
            for each in (self.colour, self.windows.flips, self.taught)
        )
        windows = Windows(self.windows.offsets, flips)
        return replace(self, pixels=pixels, labels=labels, colour=colour, windows=windows, taught=taught)


def pixel_statistics(
    store: Store, augmentation: AugmentationSettings, given: Normaliser | None = None
) -> PixelStatistics:
    """Returns the statistics that `augmentation` normalises and colours the pixels of `store` with.

    With `given`, pixels are normalised as it says. Colours are always those of `store`.
    """
    given = given or Normaliser(augmentation.normalisation, store.path)
    known = given.scale or ((IMAGENET_MEAN, IMAGENET_STD) if given.kind is Normalisation.imagenet else ())
    source = store if known or given.store == store.path else open_store(given.store)
    mean, std = known or (source.mean, source.std)
    lengths = np.maximum(np.asarray(store.eigenvalues, dtype=np.float64), 0.0)
    if augmentation.colour_scale is ColourScale.root:
        lengths = np.sqrt(lengths)
    components = (np.asarray(store.eigenvectors, dtype=np.float64) * lengths).astype(np.float32)
    mean_image = None
    if given.kind is Normalisation.mean_image:
        mean_image = torch.from_numpy(source.mean_image())
    return PixelStatistics(
        mean_image=mean_image,
        mean=torch.tensor(np.asarray(mean), dtype=torch.float32),
        std=torch.tensor(np.asarray(std), dtype=torch.float32).clamp_min(1e-6),
        components=torch.from_numpy(components),
    )


def batches_ahead(numerics: Numerics) -> int:
    """Returns how many batches a stage draws ahead in threads.

    None where CPUs train: a thread that draws takes from the step what it saves (docs/benchmarks.md). Two a thread
    where a GPU does, but no more than hide a batch's drawing: each holds page-locked memory (19 MB at full size).
    """
    return 0 if numerics.device == "cpu" else min(2 * numerics.threads, _MOST_AHEAD)


def num_batches(num_images: int, batch_size: int) -> int:
    """Returns the batches per epoch; the last one may be short."""
    return -(-num_images // batch_size)


class ReadAhead:
    """Makes the kernel read the next images while training runs.

    Without it, training on a store larger than memory would wait for every image.
    """

    def __init__(
        self,
        images: Pixels,
        ahead: int,
        least_bytes: int = _READ_AHEAD_FROM_BYTES,
        is_own: Callable[[np.ndarray], np.ndarray] = lambda positions: positions >= 0,
    ) -> None:
        """Reads `ahead` images at a time, that many before they are due; nothing if pixels are below `least_bytes`.

        `is_own` says of positions in the order which are read at all.
        """
        self._images, self._ahead, self._is_own = images, ahead, is_own
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
            coming = order[self._asked : due]
            coming = np.sort(coming[self._is_own(self._asked + np.arange(len(coming)))])
            for piece in np.split(coming, np.flatnonzero(np.diff(coming) > 1) + 1):
                if len(piece):
                    self._images.will_need(int(piece[0]), int(piece[-1]) + 1)
            self._asked = due


class _Slot:
    """Host memory of one batch, used again and again; page-locked where a GPU reads it while the host goes on."""

    def __init__(self, batch_size: int, size: int, device: str, num_taught: int = 0) -> None:
        on_gpu = torch.device(device).type == "cuda"
        self.pixels = torch.empty((batch_size, size, size, 3), dtype=torch.uint8, pin_memory=on_gpu)
        self.array = self.pixels.numpy()
        self.labels = torch.empty(batch_size, dtype=torch.int64, pin_memory=on_gpu)
        self.flips = torch.empty(batch_size, dtype=torch.bool, pin_memory=on_gpu)
        self.colour = torch.empty((batch_size, 3), dtype=torch.float32, pin_memory=on_gpu)
        self.taught = torch.empty((batch_size, num_taught), dtype=torch.float32, pin_memory=on_gpu and num_taught > 0)
        self._sent = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Waits until the device has read what is in the memory."""
        if self._sent is not None:
            self._sent.synchronize()

    def mark_sent(self) -> None:
        """Notes that the memory is read by all that the device was asked for up to now."""
        if self._sent is not None:
            self._sent.record()


class TrainingBatches:
    """The training images in shuffled, augmented batches of `batch_size`; the last one of an epoch may be short."""

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
        device: str = "cpu",
        depth: int = 0,
        threads: int = 1,
        splits: tuple[str, ...] = ("train",),
        teachers: Teachers | None = None,
        own: Callable[[int], slice] = slice,
    ) -> None:
        """Opens the splits.

        Args:
            colour_epochs: colours are shifted in that many epochs, the first ones; None for all.
            device: that trains.
            depth: batches that `take` draws ahead of the one it returns; with 0 it draws that one when it is called.
            threads: that draw ahead.
            splits: that are trained on.
            teachers: what batches bring along of each image.
            own: the images of a batch, by their number, that this process computes. Pixels of the others, and what
                teachers say of them, are not drawn: whatever the memory held stands there.
        """
        self._images, labels = store.images(*splits, whole=True), store.labels(*splits)
        assert labels is not None
        self._labels, self._statistics, self._augmentation = labels, statistics.to(device), augmentation
        self._seed, self._batch_size, self._input_size = seed, batch_size, input_size
        self._colour_epochs, self._device = colour_epochs, device
        changes = augmentation.changes_images
        self._transforms = Transforms(augmentation, input_size, statistics.mean.cpu()) if changes else None
        margin = self._images.margins(input_size)
        draws = partial(
            draw_epoch, seed, num_images=len(labels), margin=margin, augmentation=augmentation, labels=labels
        )
        # Of two epochs only where batches of the next are drawn ahead: ten million images are 330 MB an epoch.
        self._draws_of, self._drawing = lru_cache(1 + bool(depth))(lambda epoch: draws(epoch=epoch)), threading.Lock()
        window = augmentation.shuffle_window
        self._own = own
        self._read_ahead = ReadAhead(
            self._images, window_images(window) if window else batch_size, is_own=self._are_own
        )
        # Copies have a stream of their own, so that they run beside the kernels of the batch before.
        self._copies = torch.cuda.Stream(device) if torch.device(device).type == "cuda" else None  # type: ignore[no-untyped-call]
        self._teachers, num_taught = teachers, 0 if teachers is None else store.num_classes
        self._new_slot = partial(_Slot, batch_size, input_size, num_taught=num_taught)
        self._slots = tuple(self._new_slot(device) for _ in range(depth + 1))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batches") if depth else None
        # The batches that are being drawn, in order, and the update after theirs.
        self._coming: deque[Callable[[], Batch]] = deque()
        self._next_step = 0

    @property
    def per_epoch(self) -> int:
        return num_batches(len(self._labels), self._batch_size)

    def draw(self, epoch: int, index: int) -> Batch:
        """Draws batch `index` of `epoch` on the host, into new memory."""
        return self._draw(epoch, self._span(index), self._new_slot("cpu"))

    def draw_images(self, epoch: int, images: np.ndarray) -> Batch:
        """Draws `images` [at most a batch] as they are at their places in the order of `epoch`."""
        order = self._draws(epoch).order
        places = np.array([int(np.argmax(order == image)) for image in images])
        return self._draw(epoch, places, self._new_slot("cpu"))

    def take(self, step: int) -> Batch:
        """Returns the batch of update `step` on the device, which is valid until the next call.

        Calls for consecutive steps are the fast ones.
        """
        if step != self._next_step - len(self._coming):
            for drawn in self._coming:
                drawn()
            self._coming.clear()
            self._next_step = step
        while self._next_step < step + len(self._slots):
            self._coming.append(self._begin(self._next_step))
            self._next_step += 1
        return self._send(self._coming.popleft()(), self._slot(step))

    def draw_whole(self) -> None:
        """Draws all images from the next call of `take` on, which must not be for the step that would follow."""
        self._own = slice

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _are_own(self, positions: np.ndarray) -> np.ndarray:
        own, places = self._own(self._batch_size), positions % self._batch_size
        is_own: np.ndarray = (places >= (own.start or 0)) & (places < own.stop)
        return is_own

    def _span(self, index: int) -> slice:
        return slice(index * self._batch_size, (index + 1) * self._batch_size)

    def _draw(self, epoch: int, places: slice | np.ndarray, slot: _Slot) -> Batch:
        """Draws the images at `places` in the order of `epoch`."""
        draws = self._draws(epoch)
        chosen, offsets = draws.order[places], draws.offsets[places]
        shifts = self._augmentation.colour_std > 0 and (self._colour_epochs is None or epoch < self._colour_epochs)
        slot.wait()
        used, own = slice(len(chosen)), self._own(len(chosen))
        pixels, labels, flips, colour = slot.pixels[used], slot.labels[used], slot.flips[used], slot.colour[used]
        if self._transforms is None:
            crop(self._images, chosen[own], offsets[own], self._input_size, slot.array[own])
        else:
            self._transforms.fill(slot.array[own], self._images, chosen[own], offsets[own], draws.seeds[places][own])
        labels.copy_(torch.from_numpy(self._labels[chosen]))
        flips.copy_(torch.from_numpy(draws.flips[places]))
        # Drawn even if not used, so that the epoch's other draws do not depend on it.
        colour.copy_(torch.from_numpy(draws.colour[places]))
        reflects = self._augmentation.reflect and self._transforms is None
        windows, taught = Windows(offsets, flips if reflects else None), None
        if self._teachers is not None:
            taught = slot.taught[used]
            taught[own].copy_(torch.from_numpy(self._teachers.of(chosen[own])))
        return Batch(pixels, labels, windows, colour if shifts else None, self._statistics, taught)

    def _begin(self, step: int) -> Callable[[], Batch]:
        """Starts to draw the batch of `step`; the result waits for it."""
        epoch, index = divmod(step, self.per_epoch)
        self._read_ahead.to(self._draws(epoch).order, index * self._batch_size)
        draw = partial(self._draw, epoch, self._span(index), self._slot(step))
        return draw if self._pool is None else self._pool.submit(draw).result

    def _send(self, batch: Batch, slot: _Slot) -> Batch:
        """Sends the batch, which is in `slot`, to the device without waiting for it."""
        if self._copies is None:
            return batch
        with torch.cuda.stream(self._copies):
            sent = batch.to(self._device)
        training = torch.cuda.current_stream(self._device)
        training.wait_stream(self._copies)
        # On the stream that trains, so that no more batches lie on the device than there are slots.
        slot.mark_sent()
        for tensor in (sent.pixels, sent.labels, sent.colour, sent.windows.flips, sent.taught):
            if tensor is not None:
                tensor.record_stream(training)
        return sent

    def _slot(self, step: int) -> _Slot:
        return self._slots[step % len(self._slots)]

    def _draws(self, epoch: int) -> EpochDraws:
        # Under a lock, because `lru_cache` lets several threads compute the same epoch.
        with self._drawing:
            return self._draws_of(epoch)


def centre_batches(
    store: Store,
    split: str,
    statistics: PixelStatistics,
    input_size: int,
    batch_size: int = 256,
    device: str = "cpu",
) -> Iterator[Batch]:
    """Yields the centre crops of a labelled split, in row order, on `device`."""
    images, labels = store.images(split), store.labels(split)
    assert labels is not None
    statistics = statistics.to(device)
    first = (images.shape[1] - input_size) // 2
    last = first + input_size
    for start in range(0, len(images), batch_size):
        pixels = torch.from_numpy(np.array(images[start : start + batch_size, first:last, first:last]))
        windows = Windows.all_at(first, len(pixels))
        own = torch.from_numpy(labels[start : start + batch_size].copy())
        yield Batch(pixels, own, windows, None, statistics).to(device)
