"""The pixels of one split, over all its shards, as one array that is never read whole.

Shards are mapped on first use. A mapping holds a file descriptor, so at most as many shards stay mapped as the process
may open; the least recently used are closed.
"""

import mmap
import resource
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from workers.data.decoding import decode_stored
from workers.data.store.integrity import checksum, image_damaged
from workers.errors import StorageError

# Other files that a training process has open: libraries, logs, sockets, other splits.
_OTHER_FILES = 512
_WHOLE = slice(None)


@dataclass(frozen=True)
class ShardFiles:
    """The files of one shard's images: `images` is [n, S, S, 3] uint8, or [bytes]; of JPEGs with `offsets` [n + 1]."""

    num_images: int
    images: Path
    offsets: Path | None = None


class Pixels:
    """[N, S, S, 3] uint8, read-only; indexed by images (one, slice, indices, mask), then slices of rows and columns.

    A slice of raw images in one shard is a view of the mapped file. Everything else is a copy of just the selection.
    Of whole images this shows the centre squares; with `whole`, all of each, indexed alone; `shape` is the squares'.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        shards: Sequence[ShardFiles],
        size: int,
        checksums: np.ndarray | None = None,
        shapes: np.ndarray | None = None,
        *,
        whole: bool = False,
        kept: np.ndarray | None = None,
    ) -> None:
        """Opens nothing yet; images are compared with `checksums` [N] uint32 as they are read, None for not at all.

        `shapes` is [N, 2] int32, height and width of whole images, whose shorter side is `size`; None for squares.
        `kept` are the indices, ascending, of those images that this shows; None for all.
        """
        self._kept = kept
        self._checksums, self._shapes = checksums, shapes
        self._uneven, self._centred = shapes is not None and whole, shapes is not None and not whole
        # An empty file cannot be mapped.
        self._files = [shard for shard in shards if shard.num_images]
        self._starts = [0, *accumulate(shard.num_images for shard in self._files)]
        self._size = size
        self._open: OrderedDict[int, _RawShard | _UnevenShard] = OrderedDict()
        self._most_open = 0
        # Several threads may read at once; a shard's first reader opens it for all.
        self._opening = threading.Lock()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), self._size, self._size, 3)

    def margins(self, window: int) -> int | np.ndarray:
        """Returns side − `window`: one number for squares, [N, 2] (down, across) for whole images."""
        if self._shapes is None:
            return self._size - window
        return (self._shapes if self._kept is None else self._shapes[self._kept]) - window

    def __len__(self) -> int:
        return self._starts[-1] if self._kept is None else len(self._kept)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: Any) -> np.ndarray:
        # The first case is one training crop, and must be fast.
        first, rows, columns = key if isinstance(key, tuple) and len(key) == 3 else _spelt_out(key)
        if isinstance(first, slice):
            chosen = range(*first.indices(len(self)))
            return self._many(chosen if self._kept is None else self._kept[first].tolist(), rows, columns)
        if isinstance(first, np.ndarray | list):
            places = np.asarray(first)
            places = np.flatnonzero(places) if places.dtype == bool else places
            return self._many((places if self._kept is None else self._kept[places]).tolist(), rows, columns)
        index = int(first)
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"image {first} of {len(self)}")
        return self._one(index if self._kept is None else int(self._kept[index]), rows, columns)

    def _one(self, index: int, rows: slice, columns: slice) -> np.ndarray:
        number = bisect_right(self._starts, index) - 1
        shard, place = self._shard(number), index - self._starts[number]
        if self._centred:
            return centre_square(shard.window(place, _WHOLE, _WHOLE), self._size)[rows, columns]
        return shard.window(place, rows, columns)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        pixels = self[:]
        return pixels.astype(dtype or self.dtype, copy=bool(copy))

    def will_need(self, start: int, stop: int) -> None:
        """Asks the kernel to read images `start` … `stop` ahead of time; returns at once."""
        if self._kept is not None:
            start, stop = int(self._kept[start]), int(self._kept[stop - 1]) + 1
        for number, within in self._parts(start, stop):
            self._shard(number).will_need(within.start, within.stop)

    def _many(self, chosen: Sequence[int], rows: slice, columns: slice) -> np.ndarray:
        if self._uneven:
            raise IndexError("whole images differ in shape: index them one by one")
        if not self._centred and isinstance(chosen, range) and chosen.step == 1:
            found = self._parts(chosen.start, chosen.stop)
            parts = [self._shard(number).run(within.start, within.stop, rows, columns) for number, within in found]
            if parts:
                return parts[0] if len(parts) == 1 else np.concatenate(parts)
        height, width = (len(range(*each.indices(self._size))) for each in (rows, columns))
        gathered = np.empty((len(chosen), height, width, 3), np.uint8)
        for place, index in enumerate(chosen):
            gathered[place] = self._one(index, rows, columns)
        return gathered

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, range]]:
        """Yields the shards that hold images `start` … `stop`, each with the range of indices in it."""
        number = bisect_right(self._starts, start) - 1
        while start < stop:
            end = min(stop, self._starts[number + 1])
            yield number, range(start - self._starts[number], end - self._starts[number])
            start, number = end, number + 1

    def _shard(self, number: int) -> "_RawShard | _UnevenShard":
        shard = self._open.get(number)
        if shard is not None and len(self._files) <= self._most_open:
            return shard
        with self._opening:
            shard = self._open.get(number)
            if shard is None:
                span = slice(self._starts[number], self._starts[number + 1])
                checksums, shapes = (None if each is None else each[span] for each in (self._checksums, self._shapes))
                shard = _open_shard(self._files[number], self._size, checksums, shapes)
                self._most_open = self._most_open or _room_for(len(self._files))
                while len(self._open) >= self._most_open:
                    self._open.popitem(last=False)
                self._open[number] = shard
            else:
                self._open.move_to_end(number)
        return shard


def centre_square(image: np.ndarray, size: int) -> np.ndarray:
    """Returns a view of the centre `size` × `size` pixels of [height, width, 3]."""
    top, left = ((side - size) // 2 for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def _spelt_out(key: Any) -> tuple[Any, slice, slice]:
    given = key if isinstance(key, tuple) else (key,)
    if len(given) > 3 or not all(isinstance(each, slice) for each in given[1:]):
        raise IndexError("prepared pixels are indexed by images, then by slices of rows and columns")
    return (*given, *(_WHOLE,) * (3 - len(given)))


def _room_for(num_shards: int) -> int:
    """Returns how many shards may be mapped at once; raises this process's limit of open files if allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return num_shards
    wanted = 2 * num_shards + _OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    return max(1, min(num_shards, (soft - _OTHER_FILES) // 2))


def _open_shard(
    files: ShardFiles, size: int, checksums: np.ndarray | None, shapes: np.ndarray | None
) -> "_RawShard | _UnevenShard":
    try:
        if files.offsets is not None:
            return _UnevenShard(files.images, np.load(files.offsets, allow_pickle=False), checksums)
        if shapes is not None:
            offsets = np.cumsum([0, *3 * shapes.prod(axis=1, dtype=np.int64)])
            return _UnevenShard(files.images, offsets, checksums, shapes)
        return _RawShard(files.images, (files.num_images, size, size, 3), checksums)
    # NumPy raises TypeError if a file ends early.
    except (OSError, ValueError, TypeError) as error:
        raise StorageError(
            f"{files.images}: cannot be read ({error}); the prepared dataset is damaged: "
            "delete its folder, then run it again"
        ) from error


class _Shard:
    """The uint8 array of an npy file with the expected `shape`, mapped and read-only, and its images' checksums.

    NumPy's memmap is slower: it makes an object of its own class for each view, which doubles the time of a small crop.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], checksums: np.ndarray | None) -> None:
        self._path, self._checksums = path, checksums
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"npy version {version}")
            found, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            if dtype != np.uint8 or fortran or found != shape:
                raise ValueError(f"{dtype} {found} in place of uint8 {shape}")
            self._start = file.tell()
            self._pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._array = np.ndarray(shape, np.uint8, self._pages, self._start)

    def _require_whole(self, index: int, content: np.ndarray) -> None:
        if self._checksums is not None and checksum(content) != self._checksums[index]:
            raise image_damaged(self._path, index)

    def _read_ahead(self, start: int, stop: int) -> None:
        """Asks the kernel to read the array's bytes `start` … `stop` ahead of time."""
        first, last = self._start + start, self._start + stop
        aligned = first - first % mmap.PAGESIZE
        self._pages.madvise(mmap.MADV_WILLNEED, aligned, last - aligned)


class _RawShard(_Shard):
    def __init__(self, path: Path, shape: tuple[int, ...], checksums: np.ndarray | None) -> None:
        super().__init__(path, shape, checksums)
        self._flat = self._array.reshape(shape[0], -1)

    def window(self, index: int, rows: slice, columns: slice) -> np.ndarray:
        self._require_whole(index, self._flat[index])
        return self._array[index, rows, columns]

    def run(self, start: int, stop: int, rows: slice, columns: slice) -> np.ndarray:
        for index in range(start, stop):
            self.window(index, rows, columns)
        return self._array[start:stop, rows, columns]

    def will_need(self, start: int, stop: int) -> None:
        self._read_ahead(start * self._flat.shape[1], stop * self._flat.shape[1])


class _UnevenShard(_Shard):
    """JPEGs, or raw images of `shapes` [n, 2]; the bytes of image i lie between offsets i and i + 1."""

    def __init__(
        self, path: Path, offsets: np.ndarray, checksums: np.ndarray | None, shapes: np.ndarray | None = None
    ) -> None:
        super().__init__(path, (int(offsets[-1]),), checksums)
        self._offsets: list[int] = offsets.tolist()
        self._shapes = None if shapes is None else shapes.tolist()

    def window(self, index: int, rows: slice, columns: slice) -> np.ndarray:
        content = self._array[self._offsets[index] : self._offsets[index + 1]]
        self._require_whole(index, content)
        if self._shapes is not None:
            return content.reshape(*self._shapes[index], 3)[rows, columns]
        try:
            return decode_stored(content.data)[rows, columns]
        except ValueError as error:
            raise StorageError(
                f"{self._path}: image {index} is damaged ({error}): delete the dataset's folder, then run it again"
            ) from error

    def run(self, start: int, stop: int, rows: slice, columns: slice) -> np.ndarray:
        return np.stack([self.window(index, rows, columns) for index in range(start, stop)])

    def will_need(self, start: int, stop: int) -> None:
        self._read_ahead(self._offsets[start], self._offsets[stop])
