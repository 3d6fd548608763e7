"""Packs all splits into a folder of npy and text files: first the shards, then the labels, sizes and names of rows."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from workers.data.decoding import RULES, Rules, stored_shape
from workers.data.sources import Listing, Loader, Row
from workers.data.store.shards import (
    SHAPES,
    Decided,
    Encoding,
    PackedShard,
    ShardJob,
    ShardRunner,
    Unreadable,
    finished_shard,
    pack_shard,
    rows_per_shard,
    write_npy,
)
from workers.settings import SPLITS, Keep
from workers.storage import Written, layout, write_text, written

# Reporting every image would take the interpreter lock from the threads that decode.
_TELL_EVERY_S = 0.1


class _Abandoned(Exception):
    """The caller no longer waits for this shard."""


class PackingThreads:
    """A `ShardRunner` with a thread for each core and one more, since one usually waits for the disk.

    Each thread packs its own shard. It keeps one decoded image in memory, and the JPEGs of one shard.
    """

    def run(self, loader: Loader, jobs: Iterator[ShardJob], packed: Callable[[int], None]) -> Iterator[PackedShard]:
        num_threads = len(os.sched_getaffinity(0)) + 1
        untold: deque[None] = deque()
        stop = threading.Event()

        def image_done() -> None:
            if stop.is_set():
                raise _Abandoned
            untold.append(None)

        def tell() -> None:
            """Reports finished images in the caller's thread."""
            num_images = len(untold)
            for _ in range(num_images):
                untold.popleft()
            if num_images:
                packed(num_images)

        with ThreadPoolExecutor(num_threads, thread_name_prefix="pack") as pool:

            def start(most: int) -> set[Future[PackedShard]]:
                return {pool.submit(pack_shard, loader, job, image_done) for job in islice(jobs, most)}

            try:
                running = start(num_threads)
                while running:
                    finished, running = wait(running, _TELL_EVERY_S, FIRST_COMPLETED)
                    shards = [one.result() for one in finished]
                    tell()
                    running |= start(len(shards))
                    yield from shards
            finally:
                stop.set()


@dataclass(frozen=True, eq=False)
class PackedSplit:
    """The result of packing a split.

    Attributes:
        labels: [N] int64, of the rows that were kept.
        unreadable: the images that could not be read.
        decided: the images with a decision.
        shards: the number of images in each shard.
        files: all its files by name.
        shapes: [N, 2] int32, height and width of its images; None where all are squares.
    """

    labels: np.ndarray
    unreadable: tuple[Unreadable, ...]
    decided: tuple[Decided, ...]
    shards: tuple[int, ...]
    files: Mapping[str, Written]
    shapes: np.ndarray | None


def pack(
    listing: Listing,
    splits: Mapping[str, tuple[Row, ...]],
    size: int,
    encoding: Encoding,
    folder: Path,
    runner: ShardRunner,
    packed: Callable[[int], None],
    rules: Rules = RULES,
) -> dict[str, PackedSplit]:
    """Decodes every row into `folder`, and returns the splits with images; finished shards of earlier work are kept.

    An unreadable image of test keeps its row, grey and of size 0 × 0; in other splits it gets no row. `packed` is
    called with the number of images done since its last call.

    Raises:
        StorageError: the disk is full, or storage fails otherwise.
    """
    finished: list[PackedShard] = []

    def missing() -> Iterator[ShardJob]:
        for job in _jobs(splits, size, encoding, folder, rules):
            shard = finished_shard(job)
            if shard is None:
                yield job
            else:
                finished.append(shard)
                packed(len(job.rows))

    # Running `missing` fills `finished`.
    made = list(runner.run(listing.loader(), missing(), packed))
    found = [*finished, *made]
    results: dict[str, PackedSplit] = {}
    for split in SPLITS:
        if splits[split]:
            labelled = split != "test" or listing.labelled_test
            shards = sorted((each for each in found if each.split == split), key=lambda each: each.number)
            results[split] = _write_split(folder, split, splits[split], shards, labelled, size, rules.keep)
    return results


def _jobs(
    splits: Mapping[str, tuple[Row, ...]], size: int, encoding: Encoding, folder: Path, rules: Rules
) -> Iterator[ShardJob]:
    for split in SPLITS:
        rows = splits[split]
        step = rows_per_shard(len(rows), size)
        for number, first in enumerate(range(0, len(rows), step)):
            part = rows[first : first + step]
            yield ShardJob(folder, split, number, first, part, size, encoding, split == "test", rules)


def _write_split(
    folder: Path, split: str, rows: tuple[Row, ...], shards: list[PackedShard], labelled: bool, size: int, keep: Keep
) -> PackedSplit:
    """Writes labels, sizes, contents and names of a split's rows, and the shapes of whole images."""
    unreadable = tuple(each for shard in shards for each in shard.unreadable)
    gone = set() if split == "test" else {each.index for each in unreadable}
    kept = [row for index, row in enumerate(rows) if index not in gone] if gone else rows
    labels = np.array([row.label for row in kept], dtype=np.int64)
    sizes = np.concatenate([shard.sizes for shard in shards])
    arrays = {
        layout.sizes(split): sizes,
        f"{split}.checksums.npy": np.concatenate([shard.checksums for shard in shards]),
        f"{split}.contents.npy": np.frombuffer(b"".join(row.content for row in kept), dtype=np.uint8).reshape(-1, 32),
    }
    if labelled:
        arrays[layout.labels(split)] = labels
    shapes = None
    if keep is Keep.whole:
        found = [stored_shape(width, height, size, keep) for width, height in sizes.tolist()]
        shapes = arrays[f"{split}{SHAPES}"] = np.array(found, np.int32).reshape(-1, 2)
    files = {name: write_npy(folder / name, array) for name, array in arrays.items()}
    path = folder / layout.rows(split)
    write_text(path, "".join(f"{row.name}\n" for row in kept))
    files[path.name] = written(path)
    for shard in shards:
        files.update(shard.files)
    decided = tuple(each for shard in shards for each in shard.decided)
    return PackedSplit(labels, unreadable, decided, tuple(len(shard.sizes) for shard in shards), files, shapes)
