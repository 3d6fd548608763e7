"""Shards of a store: their sizes, their packing, and the records of finished ones (files as in `store`).

Each file of a shard is committed by rename, and then a record of the images and options it was made from. So the next
preparation can use a shard that a killed one finished, and never one that was made from anything else.
"""

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from workers.data.decoding import RULES, BadImage, Picture, Rules, encode
from workers.data.sources import Loader, Row
from workers.data.store.integrity import checksum
from workers.data.store.pixels import ShardFiles
from workers.settings import Keep, StoreFormat
from workers.storage import Written, nothing, parse_json, replacing, write_json, written

UNREADABLE_GREY = 128
# Bytes of raw pixels. The upper limit keeps a store of 1.3 million images at 256 pixels below 2,000 files; the lower
# one saves small datasets many fsyncs.
_LARGEST_BYTES = 128 << 20
_SMALLEST_BYTES = 4 << 20
# CPUs work on different shards, and a kill loses at most the unfinished ones, so a split should have several.
_WANTED_SHARDS = 32
RECORDS = ".records"
SHAPES = ".shapes.npy"


@dataclass(frozen=True)
class Encoding:
    """The form of stored pixels; `jpeg_quality` matters only for JPEG."""

    format: StoreFormat = StoreFormat.raw
    jpeg_quality: int = 90


@dataclass(frozen=True)
class ShardJob:
    """One shard to pack: `rows` of `split`, from `first_row` on, into `folder`.

    `keep_unreadable` gives an unreadable image a grey row of size 0 × 0; otherwise it gets no row.
    """

    folder: Path
    split: str
    number: int
    first_row: int
    rows: tuple[Row, ...]
    size: int
    encoding: Encoding
    keep_unreadable: bool
    rules: Rules = RULES

    @property
    def stem(self) -> str:
        return shard_stem(self.split, self.number)

    @property
    def record(self) -> Path:
        """The record's path, outside the store's folder, whose files it describes."""
        return records_of(self.folder) / f"{self.stem}.json"

    def digest(self) -> str:
        """Returns the sha256 of all that the shard is made from; its folder does not count."""
        made_of = [self.stem, self.first_row, self.size, *asdict(self.encoding).values(), self.keep_unreadable]
        made_of += [self.rules.exif, self.rules.max_pixels]
        # Only then, so that the records of earlier stores still count.
        made_of += ["whole"] if self.rules.keep is Keep.whole else []
        digest = hashlib.sha256(json.dumps(made_of).encode())
        for row in self.rows:
            digest.update(f"{row.name}\0{row.path}\0{row.label}\0".encode() + row.content)
        return digest.hexdigest()


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read: its index in the split's listing, its path, and the reason."""

    index: int
    path: str
    reason: str


@dataclass(frozen=True)
class Decided:
    """A readable image, and the decisions about it (texts of `Decision`)."""

    path: str
    decisions: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PackedShard:
    """The result of a job.

    Attributes:
        split, number: of the shard.
        sizes: [n, 2] int32, width and height of the originals of its rows.
        checksums: [n] uint32, of the images' bytes.
        unreadable: images that could not be read.
        decided: images with a decision.
        files: its files by name.
    """

    split: str
    number: int
    sizes: np.ndarray
    checksums: np.ndarray
    unreadable: tuple[Unreadable, ...]
    decided: tuple[Decided, ...]
    files: dict[str, Written]


class ShardRunner(Protocol):
    """Packs shards, in threads of this process or on the CPUs of a cluster."""

    def run(self, loader: Loader, jobs: Iterator[ShardJob], packed: Callable[[int], None]) -> Iterator[PackedShard]:
        """Yields each job's shard when it is finished, in any order; takes only a few jobs in advance.

        `packed` is called in the caller's thread with the number of images done since its last call. Raises
        StorageError as `pack_shard` does.
        """


def records_of(building: Path) -> Path:
    """Returns the folder of the records of the shards in `building`."""
    return building.with_name(f"{building.name}{RECORDS}")


def shard_stem(split: str, number: int) -> str:
    """Returns the first part of the names of a shard's files."""
    return f"{split}-{number:05d}"


def shard_files(folder: Path, stem: str, store_format: StoreFormat, num_images: int) -> ShardFiles:
    """Returns the files of a shard's pixels."""
    if store_format is StoreFormat.raw:
        return ShardFiles(num_images, folder / f"{stem}.images.npy")
    return ShardFiles(num_images, folder / f"{stem}.jpeg.npy", folder / f"{stem}.offsets.npy")


def rows_per_shard(num_rows: int, size: int) -> int:
    """Returns the rows per shard for a split of `num_rows` rows.

    It depends on nothing else, so that the store is the same whoever packs it and however often it was resumed.
    """
    image_bytes = 3 * size * size
    wanted = max(-(-num_rows // _WANTED_SHARDS), _SMALLEST_BYTES // image_bytes)
    return max(1, min(wanted, _LARGEST_BYTES // image_bytes))


def finished_shard(job: ShardJob) -> PackedShard | None:
    """Returns the job's shard if an earlier preparation finished it, by its record and the sizes of its files."""
    try:
        record = parse_json(job.record.read_bytes())
        if record["made_of"] != job.digest():
            return None
        files = {name: Written(**entry) for name, entry in record["files"].items()}
        if any((job.folder / name).stat().st_size != entry.size for name, entry in files.items()):
            return None
        unreadable = tuple(Unreadable(**entry) for entry in record["unreadable"])
        decided = tuple(Decided(each["path"], tuple(each["decisions"])) for each in record["decided"])
        checksums = np.array(record["checksums"], np.uint32)
        return PackedShard(job.split, job.number, _sizes(record["sizes"]), checksums, unreadable, decided, files)
    # The record is absent or invalid, so the shard is packed again.
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pack_shard(loader: Loader, job: ShardJob, image_done: Callable[[], None]) -> PackedShard:
    """Decodes and writes one shard with one decoded image in memory at a time (and the shard's JPEGs).

    `image_done` is called after each image. If it raises, packing ends and leaves no file.

    Raises:
        StorageError: the disk is full, or storage fails otherwise.
    """
    sizes: list[tuple[int, int]] = []
    unreadable: list[Unreadable] = []
    decided: list[Decided] = []

    def pictures() -> Iterator[np.ndarray]:
        for index, row in enumerate(job.rows, start=job.first_row):
            try:
                picture = loader.load(row, job.size, job.rules)
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
    checksums: list[int] = []
    if where.offsets is None:
        shape = (0,) if job.rules.keep is Keep.whole else (len(job.rows), job.size, job.size, 3)
        files = {where.images.name: _write_raw(where.images, pictures(), shape, checksums)}
    else:
        encoded = [encode(pixels, job.encoding.jpeg_quality) for pixels in pictures()]
        checksums += [checksum(np.frombuffer(each, np.uint8)) for each in encoded]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        content = np.frombuffer(b"".join(encoded), np.uint8)
        arrays: dict[Path, np.ndarray] = {where.images: content, where.offsets: offsets}
        files = {path.name: write_npy(path, array) for path, array in arrays.items()}
    record = {
        "made_of": job.digest(),
        "files": {name: asdict(entry) for name, entry in files.items()},
        "sizes": sizes,
        "checksums": checksums,
        "unreadable": [asdict(each) for each in unreadable],
        "decided": [asdict(each) for each in decided],
    }
    write_json(job.record, record)
    summed = np.array(checksums, np.uint32)
    return PackedShard(job.split, job.number, _sizes(sizes), summed, tuple(unreadable), tuple(decided), files)


def _sizes(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def _write_raw(path: Path, pictures: Iterator[np.ndarray], expected: tuple[int, ...], checksums: list[int]) -> Written:
    """Writes images one by one, without a memory map, which would raise SIGBUS on a full disk and not an error.

    Appends each image's checksum to `checksums`. `expected` is the shape of the array if all images can be read; (0,)
    writes a flat array, whose length is known only at its end.
    """
    header = npy_header(*expected)
    digest = hashlib.sha256(header)
    num_bytes = 0
    with replacing(path) as file:
        file.write(header)
        for pixels in pictures:
            content = np.ascontiguousarray(pixels).reshape(-1)
            file.write(content.data)
            digest.update(content.data)
            checksums.append(checksum(content))
            num_bytes += content.size
        shape = (num_bytes // math.prod(expected[1:]), *expected[1:])
        if shape != expected:
            # Rare or, of flat arrays, read back in a fraction of the time of decoding: the file is hashed again below.
            file.seek(0)
            file.write(npy_header(*shape))
    return written(path) if shape != expected else Written(path.stat().st_size, digest.hexdigest())


def write_npy(
    path: Path, array: np.ndarray, check: Callable[[], None] = nothing, parts: Iterable[np.ndarray] = ()
) -> Written:
    """Commits `array` as an npy file; unlike np.save's, an OSError on a full disk has its errno.

    With `parts`, which are written as they come, it only tells shape and type. `check` is called right before the
    rename, and may raise.
    """
    with replacing(path, check) as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        for part in parts or (array,):
            file.write(np.ascontiguousarray(part).data)
    return written(path)


def npy_header(*shape: int) -> bytes:
    """Returns the npy header of uint8 of this shape, padded to a length independent of the first number."""
    buffer = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()
