"""Shards of a store: how many rows each holds, how one is packed, and the record by which a finished one is known.

`<split>-00000.images.npy` [n, S, S, 3] uint8; or, as JPEG, `<split>-00000.jpeg.npy` [bytes] uint8, one file after
another, and `<split>-00000.offsets.npy` [n + 1] int64, where each begins and the last one ends.

Each file is committed by rename, and after them the record, which says of what and how they were made. So a shard that
a killed preparation had finished is taken over by the next one, and one that was made of anything else never is.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from workers.data.decoding import BadImage, Picture, encode
from workers.data.sources import Loader, Row
from workers.data.store.pixels import ShardFiles
from workers.settings import StoreFormat
from workers.storage import parse_json, replacing, sha256_of, write_json

UNREADABLE_GREY = 128
# Of raw pixels. The largest keeps a store of 1.3 million images at 256 pixels below 2,000 files; the smallest spares
# small sets the fsyncs.
_LARGEST_BYTES = 128 << 20
_SMALLEST_BYTES = 4 << 20
# Shards are what is dealt out to CPUs and what a kill leaves unfinished, so a split of any length has some.
_WANTED_SHARDS = 32
_RECORDS = ".records"


@dataclass(frozen=True)
class Encoding:
    """How pixels are kept; `jpeg_quality` counts only where the format is JPEG."""

    format: StoreFormat = StoreFormat.raw
    jpeg_quality: int = 90


@dataclass(frozen=True)
class ShardJob:
    """One shard to pack, as it goes to whoever packs it: `rows` of `split`, from `first_row` on, into `folder`.

    `keep_unreadable` gives an unreadable image a grey row of size 0 × 0; otherwise it gets none.
    """

    folder: Path
    split: str
    number: int
    first_row: int
    rows: tuple[Row, ...]
    size: int
    encoding: Encoding
    keep_unreadable: bool

    @property
    def stem(self) -> str:
        return shard_stem(self.split, self.number)

    @property
    def record(self) -> Path:
        """Beside the store's folder and not in it: so that one rename is all that is left to do at the end."""
        return self.folder.with_name(f"{self.folder.name}{_RECORDS}") / f"{self.stem}.json"

    def digest(self) -> str:
        """Of all that the shard is made of, but not of where it goes."""
        made_of = [self.stem, self.first_row, self.size, *asdict(self.encoding).values(), self.keep_unreadable]
        digest = hashlib.sha256(json.dumps(made_of).encode())
        for row in self.rows:
            digest.update(f"{row.name}\0{row.path}\0{row.label}\0".encode() + row.content)
        return digest.hexdigest()


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read: its place in the split's listing, path and the reason."""

    index: int
    path: str
    reason: str


@dataclass(frozen=True)
class Decided:
    """An image that could be read, and what was decided about it (texts of `Decision`)."""

    path: str
    decisions: tuple[str, ...]


@dataclass(frozen=True)
class FileEntry:
    """A file's size in bytes and its sha256."""

    size: int
    sha256: str


@dataclass(frozen=True, eq=False)
class PackedShard:
    """What became of a job.

    Attributes:
        split, number: which shard.
        sizes: [n, 2] int32, width and height of the originals of the rows it holds.
        unreadable: images that could not be read.
        decided: images of which something had to be decided.
        files: by name.
    """

    split: str
    number: int
    sizes: np.ndarray
    unreadable: tuple[Unreadable, ...]
    decided: tuple[Decided, ...]
    files: dict[str, FileEntry]


class ShardRunner(Protocol):
    """Who packs shards: threads of this process, or the CPUs of a cluster."""

    def run(self, loader: Loader, jobs: Iterator[ShardJob], packed: Callable[[int], None]) -> Iterator[PackedShard]:
        """Yields each job's shard as it is finished, in any order; takes few jobs ahead of those at work.

        `packed` hears, in the caller's thread, how many more images are done. Raises StorageError as `pack_shard` does.
        """


def shard_stem(split: str, number: int) -> str:
    """What the names of a shard's files begin with."""
    return f"{split}-{number:05d}"


def shard_files(folder: Path, stem: str, store_format: StoreFormat, num_images: int) -> ShardFiles:
    """Where the pixels of a shard lie."""
    if store_format is StoreFormat.raw:
        return ShardFiles(num_images, folder / f"{stem}.images.npy")
    return ShardFiles(num_images, folder / f"{stem}.jpeg.npy", folder / f"{stem}.offsets.npy")


def rows_per_shard(num_rows: int, size: int) -> int:
    """How many of a split's `num_rows` rows a shard is made of.

    A function of these two alone: who packs, and how often it was begun, must not show in the store.
    """
    image_bytes = 3 * size * size
    wanted = max(-(-num_rows // _WANTED_SHARDS), _SMALLEST_BYTES // image_bytes)
    return max(1, min(wanted, _LARGEST_BYTES // image_bytes))


def finished_shard(job: ShardJob) -> PackedShard | None:
    """The job's shard if an earlier preparation has finished it, told by its record and the sizes of its files."""
    try:
        record = parse_json(job.record.read_bytes())
        if record["made_of"] != job.digest():
            return None
        files = {name: FileEntry(**entry) for name, entry in record["files"].items()}
        if any((job.folder / name).stat().st_size != entry.size for name, entry in files.items()):
            return None
        unreadable = tuple(Unreadable(**entry) for entry in record["unreadable"])
        decided = tuple(Decided(each["path"], tuple(each["decisions"])) for each in record["decided"])
        return PackedShard(job.split, job.number, _sizes(record["sizes"]), unreadable, decided, files)
    # A record that is absent, or not one of ours: the shard is packed again.
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pack_shard(loader: Loader, job: ShardJob, image_done: Callable[[], None]) -> PackedShard:
    """Decodes and writes one shard, one image in memory at a time (as JPEG: and the encoded ones before it).

    `image_done` is called after each image; what it raises ends the packing and leaves nothing.

    Raises:
        StorageError: the disk is full, or storage fails otherwise.
    """
    sizes: list[tuple[int, int]] = []
    unreadable: list[Unreadable] = []
    decided: list[Decided] = []

    def pictures() -> Iterator[np.ndarray]:
        for index, row in enumerate(job.rows, start=job.first_row):
            try:
                picture = loader.load(row, job.size)
            except BadImage as error:
                unreadable.append(Unreadable(index, row.path, str(error)))
                picture = Picture(np.full((job.size, job.size, 3), UNREADABLE_GREY, np.uint8), 0, 0)
            if picture.decisions:
                decided.append(Decided(row.path, tuple(each.value for each in picture.decisions)))
            if picture.width or job.keep_unreadable:
                yield picture.pixels
                sizes.append((picture.width, picture.height))
            image_done()

    where = shard_files(job.folder, job.stem, job.encoding.format, len(job.rows))
    if where.offsets is None:
        files = {where.images.name: _write_raw(where.images, pictures(), len(job.rows), job.size)}
    else:
        encoded = [encode(pixels, job.encoding.jpeg_quality) for pixels in pictures()]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        content = np.frombuffer(b"".join(encoded), np.uint8)
        files = {where.images.name: _write_npy(where.images, content)}
        files[where.offsets.name] = _write_npy(where.offsets, offsets)
    write_json(
        job.record,
        {
            "made_of": job.digest(),
            "files": {name: asdict(entry) for name, entry in files.items()},
            "sizes": sizes,
            "unreadable": [asdict(each) for each in unreadable],
            "decided": [asdict(each) for each in decided],
        },
    )
    return PackedShard(job.split, job.number, _sizes(sizes), tuple(unreadable), tuple(decided), files)


def _sizes(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def _write_raw(path: Path, pictures: Iterator[np.ndarray], most: int, size: int) -> FileEntry:
    """Writes images one by one, in sequence: through a memory map, a full disk would be a SIGBUS and no error."""
    header = npy_header(most, size)
    digest = hashlib.sha256(header)
    num_images = 0
    with replacing(path) as file:
        file.write(header)
        for pixels in pictures:
            content = np.ascontiguousarray(pixels).data
            file.write(content)
            digest.update(content)
            num_images += 1
        if num_images < most:
            # Rare, so that images may be hashed as they come.
            file.seek(0)
            file.write(npy_header(num_images, size))
    if num_images < most:
        return FileEntry(path.stat().st_size, sha256_of(path))
    return FileEntry(path.stat().st_size, digest.hexdigest())


def _write_npy(path: Path, array: np.ndarray) -> FileEntry:
    with replacing(path) as file:
        save_npy(file, array)
    return FileEntry(path.stat().st_size, sha256_of(path))


def save_npy(file: IO[bytes], array: np.ndarray) -> None:
    """What np.save writes, but through the file: np.save's own OSError on a full disk has no errno to tell it by."""
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(np.ascontiguousarray(array).data)


def npy_header(num_images: int, size: int) -> bytes:
    """npy header of [num_images, size, size, 3] uint8; its length does not depend on num_images: numpy pads it."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": (num_images, size, size, 3)}
    )
    return buffer.getvalue()
