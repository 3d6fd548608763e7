"""Training batches from a raw store that the page cache does not hold, mixed by windows and as a whole.

What a store larger than memory costs: each pass finds nothing of the one before it. The kernel is told to forget the
store's files before each turn, which takes no rights and no second store to fill memory with.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.large_store import write_store
from benchmarks.row import Measure, Row, Settings, Spread
from benchmarks.turns import Turns, ratios, take_turns
from workers.data.loading import TrainingBatches, pixel_statistics
from workers.data.store import open_store
from workers.settings import AugmentationSettings

# More than what is read ahead of need only from: 2 GiB.
_NUM_IMAGES, _SIDE, _INPUT, _BATCH = 200_000, 64, 56, 128
_WINDOW = 16_384
_WHOLE = 0


def _noise(path: Path, header: bytes, num_bytes: int) -> None:
    """Pixels that lie on the disk: a hole in a file would be read from nowhere."""
    block = np.random.default_rng(0).integers(0, 256, 1 << 20, dtype=np.uint8).tobytes()
    with path.open("wb") as file:
        file.write(header)
        for start in range(0, num_bytes, len(block)):
            file.write(block[: num_bytes - start])
        file.flush()
        # Pages that are not on the disk yet cannot be forgotten.
        os.fsync(file.fileno())


def _forget(folder: Path) -> None:
    for path in folder.glob("*.images.npy"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _read(folder: Path, window: int, turns: Turns) -> None:
    """As many images as a window holds, from the beginning of an epoch of its own each time."""
    epoch = 0

    def batches() -> None:
        nonlocal epoch
        epoch += 1
        _forget(folder)
        # Opened anew: pages that are mapped are not forgotten.
        store = open_store(folder)
        augmentation = AugmentationSettings(shuffle_window=window)
        drawn = TrainingBatches(
            store, pixel_statistics(store, augmentation), augmentation, seed=0, batch_size=_BATCH, input_size=_INPUT
        )
        for index in range(_WINDOW // _BATCH):
            drawn.draw(epoch, index)

    turns.play(batches)


def run(settings: Settings) -> Row:
    """Writes 2.5 GB first."""
    folder = write_store(settings.scratch / "store", _NUM_IMAGES, _SIDE, _noise)
    readings = take_turns(
        {"windows": partial(_read, folder, _WINDOW), "whole": partial(_read, folder, _WHOLE)}, settings.repeats
    )
    return Row(
        name=f"training batches from a cold store, shuffle_window={_WINDOW}, beside mixing all images",
        unit="images/s",
        ours=_WINDOW / Spread.of(readings["windows"]).median,
        peer=_WINDOW / Spread.of(readings["whole"]).median,
        limit=None,
        ratio=Spread.of(ratios(readings, "whole", "windows")),
        measure=Measure.times,
        wanted=None,
        repeats=settings.repeats,
        note=f"{_NUM_IMAGES:,} images of {_SIDE} px, none in the page cache at first; read ahead on both sides",
    )
