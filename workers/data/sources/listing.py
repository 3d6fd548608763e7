"""What every source tells preparation: classes, a fingerprint, the rows of each split, and how to read one image."""

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
        path: what the source finds the image by.
        label: index into the classes, or UNLABELLED.
        content: sha256 of the image's content (32 bytes), which decides the split.
    """

    name: str
    path: str
    label: int
    content: bytes


@dataclass(frozen=True)
class LeftOut:
    """An image of a labelled split that the store does not hold, and why."""

    split: str
    path: str
    reason: str


@dataclass(frozen=True)
class Rows:
    """The rows of every split in code-point order of their names, and what was left out for the splits' sake."""

    splits: Mapping[str, tuple[Row, ...]]
    left_out: tuple[LeftOut, ...]


class Loader(Protocol):
    """Reads single images; picklable, and light, since it is handed to every process that packs."""

    def load(self, row: Row, size: int) -> Picture:
        """Decodes one image; raises BadImage where it cannot. Called by many threads at once."""


class Listing(Protocol):
    """A source that has been listed but not read."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""

    @property
    def class_ids(self) -> tuple[str, ...]:
        """What a challenge calls each class in its submissions; empty where there is no such thing."""

    @property
    def labelled_test(self) -> bool:
        """Whether test rows carry labels."""

    def counts(self) -> dict[str, int]:
        """Images of each split, from the listing alone; preparation may leave a few out."""

    def fingerprint(self) -> str:
        """Changes with the files' names, sizes and times; hashes no content."""

    def rows(self, progress: Callable[[int, int], None], kept: KeptContents = UNKEPT) -> Rows:
        """Hashes contents and deals the images out to the splits; `progress` gets (done, total).

        What takes long to hash, `kept` keeps against a kill.
        """

    def loader(self) -> Loader:
        """What reads the rows' images."""


def unwatched(_done: int, _total: int) -> None:
    """A progress that nobody watches."""


def by_name(rows: list[Row]) -> tuple[Row, ...]:
    """Rows in code-point order of their names."""
    return tuple(sorted(rows, key=lambda row: row.name))
