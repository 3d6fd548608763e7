"""What a benchmark takes and gives: `run(settings) -> Row`, or several rows where one measurement yields them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Skipped(Exception):
    """The row needs something that was not given; the text says what to give."""


class Measure(StrEnum):
    """What a row's ratio is: how many times the peer, a share of a whole, seconds, or training steps."""

    times = "×"
    share = "%"
    seconds = "s"
    steps = "steps"


@dataclass(frozen=True)
class Spread:
    """Median and range over the repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Wanted:
    """The bound that the median must keep, in the unit of the row's ratio (shares in [0, 1])."""

    bound: float
    at_least: bool = True

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Row:
    """One line of the table; `ours`, `peer` and `limit` are medians in `unit`, None where there is no such thing.

    Attributes:
        name: what is measured.
        unit: of the three figures, as in "images/s".
        ours, peer, limit: this project; what it is held against; what the machine allows.
        ratio: as `measure` says. Each repeat gives one, both sides taken in turns within it.
        wanted: the bound asked for, None where the row only informs.
        repeats: how often each side was measured.
        note: how the peer was tuned, or what bounds the figure.
    """

    name: str
    unit: str
    ours: float
    peer: float | None
    limit: float | None
    ratio: Spread
    measure: Measure
    wanted: Wanted | None
    repeats: int
    note: str = ""


@dataclass(frozen=True)
class Settings:
    """What a person may choose.

    Attributes:
        threads: of the full-size rows.
        repeats: how often each side is measured, in turns.
        long_repeats: the same of the long rows.
        scratch: an empty folder, removed afterwards.
        images: a folder of full-resolution JPEG photographs, or None.
        tiny_imagenet: class folders at 64 pixels (`train/`, `val/`, `test/`, `target-10.txt`), or None.
        epochs_share: of the epochs of the long rows at 64 pixels, both sides alike.
    """

    threads: int
    repeats: int
    long_repeats: int
    scratch: Path
    images: Path | None
    tiny_imagenet: Path | None
    epochs_share: float
