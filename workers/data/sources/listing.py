"""The interface between sources and preparation: classes, a fingerprint, the rows of each split, and a loader."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from workers.data.decoding import Picture
from workers.data.sources.hashes import UNKEPT, KeptContents

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


class Loader(Protocol):
    """Reads single images. It must be picklable and small, since every packing process gets a copy."""

    def load(self, row: Row, size: int) -> Picture:
        """Decodes one image; raises BadImage if it cannot. Many threads call it at once."""


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

    def rows(self, progress: Callable[[int, int], None], kept: KeptContents = UNKEPT) -> Rows:
        """Hashes contents and splits the images; calls `progress` with (done, total).

        `kept` stores the hashes, so that they survive a kill.
        """

    def loader(self) -> Loader:
        """Returns the loader of the rows' images."""


def unwatched(_done: int, _total: int) -> None:
    """Ignores progress."""


def by_name(rows: list[Row]) -> tuple[Row, ...]:
    """Sorts rows by their names in code-point order."""
    return tuple(sorted(rows, key=lambda row: row.name))
