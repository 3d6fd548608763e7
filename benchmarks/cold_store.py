"""Measures training batches from a raw store that is not in the page cache, shuffled by windows and as a whole.

This is the case of a store larger than memory: each pass finds nothing cached by the pass before. Before each turn the
kernel is told to drop the store's pages; that needs no privileges, and no second store to fill memory with.
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

# Larger than 2 GiB: smaller stores are not read ahead.
_NUM_IMAGES, _SIDE, _INPUT, _BATCH = 200_000, 64, 56, 128
_WINDOW = 16_384
_WHOLE = 0


def _noise(path: Path, header: bytes, num_bytes: int) -> None:
    """Writes pixels that occupy the disk: reading a hole in a sparse file costs no I/O."""
    block = np.random.default_rng(0).integers(0, 256, 1 << 20, dtype=np.uint8).tobytes()
    with path.open("wb") as file:
        file.write(header)
        for start in range(0, num_bytes, len(block)):
            file.write(block[: num_bytes - start])
        file.flush()
        # Pages that are not on the disk yet cannot be dropped.
        os.fsync(file.fileno())


def _forget(folder: Path) -> None:
    for path in folder.glob("*.images.npy"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _read(folder: Path, window: int, turns: Turns) -> None:
    """Reads as many images as a window holds, each time from the beginning of a new epoch."""
    epoch = 0

    def batches() -> None:
        nonlocal epoch
        epoch += 1
        _forget(folder)
        # Open the store again: mapped pages are not dropped.
        store = open_store(folder)
        augmentation = AugmentationSettings(shuffle_window=window)
        drawn = TrainingBatches(
            store, pixel_statistics(store, augmentation), augmentation, seed=0, batch_size=_BATCH, input_size=_INPUT
        )
        for index in range(_WINDOW // _BATCH):
            drawn.draw(epoch, index)

    turns.play(batches)


def run(settings: Settings) -> Row:
    """Measures the row; writes 2.5 GB first."""
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
