"""Writes one split into a store folder: pixels, labels, rows, sizes and contents, each a plain npy or text file."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workers.data.decode import BadImage
from workers.data.listing import Listing, Picture, Row
from workers.data.pool import map_in_order

UNREADABLE_GREY = 128


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read: its place in the split's listing, path and the reason."""

    index: int
    path: str
    reason: str


@dataclass(frozen=True)
class PackedSplit:
    """What was written of a split: the labels of its rows ([N] int64), and the images that could not be read."""

    labels: np.ndarray
    unreadable: tuple[Unreadable, ...]


def pack_split(
    listing: Listing,
    rows: tuple[Row, ...],
    size: int,
    folder: Path,
    split: str,
    *,
    keep_unreadable: bool,
    labelled: bool,
    progress: Callable[[], None],
) -> PackedSplit:
    """Decodes `rows` in order into `<split>.*` of `folder`, a few images in memory at a time.

    `keep_unreadable` gives an unreadable image a grey row of size 0 × 0; otherwise it gets none.
    """
    kept: list[Row] = []
    sizes: list[tuple[int, int]] = []
    unreadable: list[Unreadable] = []
    grey = Picture(np.full((size, size, 3), UNREADABLE_GREY, np.uint8), 0, 0)
    # Written in sequence and not through a memory map: on a full disk that is an error, not a SIGBUS.
    with (folder / f"{split}.images.npy").open("wb") as file:
        file.write(_header(len(rows), size))
        for index, (row, loaded) in enumerate(zip(rows, _load_all(listing, rows, size), strict=True)):
            picture = loaded.picture or grey
            if loaded.picture is None:
                unreadable.append(Unreadable(index, row.path, loaded.reason))
            if loaded.picture is not None or keep_unreadable:
                file.write(np.ascontiguousarray(picture.pixels).data)
                kept.append(row)
                sizes.append((picture.width, picture.height))
            progress()
        file.seek(0)
        file.write(_header(len(kept), size))
    labels = np.array([row.label for row in kept], dtype=np.int64)
    if labelled:
        save_npy(folder / f"{split}.labels.npy", labels)
    save_npy(folder / f"{split}.sizes.npy", np.array(sizes, dtype=np.int32).reshape(-1, 2))
    contents = np.frombuffer(b"".join(row.content for row in kept), dtype=np.uint8).reshape(-1, 32)
    save_npy(folder / f"{split}.contents.npy", contents)
    (folder / f"{split}.rows.txt").write_bytes("".join(f"{row.name}\n" for row in kept).encode())
    return PackedSplit(labels, tuple(unreadable))


@dataclass(frozen=True)
class _Loaded:
    picture: Picture | None
    reason: str = ""


def _load_all(listing: Listing, rows: tuple[Row, ...], size: int) -> Iterator[_Loaded]:
    def load(row: Row) -> _Loaded:
        try:
            return _Loaded(listing.load(row, size))
        except BadImage as error:
            return _Loaded(None, str(error))

    return map_in_order(load, rows)


def save_npy(path: Path, array: np.ndarray) -> None:
    """What np.save writes, but through the file: np.save's own OSError on a full disk has no errno to tell it by."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(np.ascontiguousarray(array).data)


def _header(num_rows: int, size: int) -> bytes:
    """npy header of [num_rows, size, size, 3] uint8; numpy pads it so that its length does not depend on num_rows."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": (num_rows, size, size, 3)}
    )
    return buffer.getvalue()
