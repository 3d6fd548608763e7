"""Defines what a benchmark takes and returns: `run(settings) -> Row`, or several rows from one measurement."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Skipped(Exception):
    """The row needs an option that was not given; the text names it."""


class Measure(StrEnum):
    """The unit of a row's ratio: times the peer, a share of a whole, seconds, or training steps."""

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
    """The bound on the median, in the unit of the row's ratio (shares in [0, 1])."""

    bound: float
    at_least: bool = True

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Row:
    """One line of the table; `ours`, `peer` and `limit` are medians in `unit`, None where they do not apply.

    Attributes:
        name: what is measured.
        unit: the unit of these three figures, for example "images/s".
        ours, peer, limit: this project; the peer; the machine's limit.
        ratio: in the unit of `measure`. Each repeat gives one ratio, with both sides measured in turns within it.
        wanted: the required bound, or None if the row only informs.
        repeats: how often each side was measured.
        note: how the peer was tuned, or what limits the figure.
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
    """Options of a run of the benchmarks.

    Attributes:
        threads: threads of the full-size rows.
        repeats: how often each side is measured, in turns.
        long_repeats: the same for the long rows.
        scratch: an empty folder, deleted afterwards.
        images: a folder of full-resolution JPEG photographs, or None.
        tiny_imagenet: class folders at 64 pixels (`train/`, `val/`, `test/`, `target-10.txt`), or None.
        cifar10: class folders at 32 pixels (`train/`, `test/`), or None.
        epochs_share: share of the epochs in the long rows at 64 pixels, for both sides.
    """

    threads: int
    repeats: int
    long_repeats: int
    scratch: Path
    images: Path | None
    tiny_imagenet: Path | None
    cifar10: Path | None
    epochs_share: float
