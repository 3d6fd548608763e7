"""The interface between sources and preparation: classes, a fingerprint, the rows of each split, and a loader.

Also the hashes of contents that a preparation keeps (`KeptContents`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Protocol, TypeVar

from workers.data.decoding import RULES, Picture, Rules
from workers.storage import write_bytes
from workers.threads import map_in_order

Item = TypeVar("Item")
_BLOCK = 2048
_HANDFUL = 8
_SHA256_BYTES = 32
UNLABELLED = -1


@dataclass(frozen=True)
class Row:
    """One image of one split.

    Attributes:
        name: the row's id, the path below the split.
        path: the path by which the source reads the image.
        label: index into the classes, or UNLABELLED.
        content: sha256 of the image's content (32 bytes), from which its split is chosen.
    """

    name: str
    path: str
    label: int
    content: bytes


@dataclass(frozen=True)
class LeftOut:
    """An image of a labelled split that the store leaves out, and the reason."""

    split: str
    path: str
    reason: str


@dataclass(frozen=True)
class Rows:
    """The rows of every split in code-point order of their names, and the images left out of all splits."""

    splits: Mapping[str, tuple[Row, ...]]
    left_out: tuple[LeftOut, ...]

    def named_classes(self, classes: Sequence[str]) -> dict[str, dict[str, str]]:
        """Returns what a listing of them does."""
        return {split: {row.name: classes[row.label] for row in own} for split, own in self.splits.items()}


class Loader(Protocol):
    """Reads single images. It must be picklable and small, since every packing process gets a copy."""

    def load(self, row: Row, size: int, rules: Rules = RULES) -> Picture:
        """Decodes one image by the dataset's rules; raises BadImage if it cannot. Many threads call it at once."""


@dataclass(frozen=True)
class KeptContents:
    """The sha256 of contents on disk in blocks, so that a kill does not cost hours of reading; None stores nothing.

    A block has 32 bytes for each file in the listing's order, and is committed by rename. The name of the folder must
    contain the listing's fingerprint, which changes with every file.
    """

    folder: Path | None

    def hashed(
        self, content_of: Callable[[Item], bytes], items: Sequence[Item], num_readers: int | None = None
    ) -> Iterator[bytes]:
        """Yields content_of(item), 32 bytes each, in order; reads existing blocks in place of their items.

        `num_readers` threads read at once; None means one for each core.

        Raises:
            StorageError: a block cannot be written.
        """
        blocks = range(0, len(items), _BLOCK)
        found = [self._read(start, min(_BLOCK, len(items) - start)) for start in blocks]
        missing = [
            item
            for start, block in zip(blocks, found, strict=True)
            if block is None
            for item in items[start : start + _BLOCK]
        ]
        # Several at a time, because passing one item to a thread takes as long as hashing a small image.
        handfuls = (missing[start : start + _HANDFUL] for start in range(0, len(missing), _HANDFUL))
        contents = chain.from_iterable(
            map_in_order(lambda handful: [content_of(each) for each in handful], handfuls, num_readers)
        )
        for start, block in zip(blocks, found, strict=True):
            if block is not None:
                yield from (block[at : at + _SHA256_BYTES] for at in range(0, len(block), _SHA256_BYTES))
                continue
            hashed = []
            for content in islice(contents, min(_BLOCK, len(items) - start)):
                hashed.append(content)
                yield content
            if self.folder is not None:
                write_bytes(self.folder / _name(start), b"".join(hashed))

    def _read(self, start: int, num_items: int) -> bytes | None:
        if self.folder is None:
            return None
        try:
            block = (self.folder / _name(start)).read_bytes()
        except OSError:
            return None
        return block if len(block) == num_items * _SHA256_BYTES else None


def _name(start: int) -> str:
    return f"{start:09d}.sha256"


UNKEPT = KeptContents(None)


class Listing(Protocol):
    """A source that has been listed but not read."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""

    @property
    def class_ids(self) -> tuple[str, ...]:
        """The names of the classes in a challenge's submissions; empty without a challenge."""

    @property
    def labelled_test(self) -> bool:
        """True if test rows have labels."""

    def counts(self) -> dict[str, int]:
        """Counts the images of each split without reading them; preparation may leave a few out."""

    def fingerprint(self) -> str:
        """Returns a digest of the files' names, sizes and times, without reading their contents."""

    def named_classes(self) -> dict[str, dict[str, str]]:
        """Returns the class of each image by the name of its row, by split, without reading images.

        Images of train that are held out by their contents may still be in train.
        """

    def rows(self, progress: Callable[[int, int], None], kept: KeptContents = UNKEPT) -> Rows:
        """Hashes contents and splits the images; calls `progress` with (done, total).

        `kept` stores the hashes, so that they survive a kill.
        """

    def loader(self) -> Loader:
        """Returns the loader of the rows' images."""


def or_skip(split: str) -> str:
    """Returns the end of an error line about an incomplete image; a row of test is never left out."""
    return "" if split == "test" else ", or set datasets.<name>.on_bad=skip"


def unwatched(_done: int, _total: int) -> None:
    """Ignores progress."""


def by_name(rows: list[Row]) -> tuple[Row, ...]:
    """Sorts rows by their names in code-point order."""
    return tuple(sorted(rows, key=lambda row: row.name))
