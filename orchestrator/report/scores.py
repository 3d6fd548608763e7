"""Computes errors, NLL, calibration and disagreement, and the rows of the paper's table. Pure.

Errors are in [0, 1]. Top-k ties go to the lower class index, as in a submission.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine import SMALLEST_PROBABILITY, Block, Combined, Labels, Rows, blocks, ranks
from orchestrator.config import Metric
from orchestrator.fitting import Answers, value_of
from workers.threads import map_in_order

NUM_BINS = 15
# 16 MB of float32 a thread: some rows of all members.
_HELD_ELEMENTS = 2**22


@dataclass(frozen=True)
class Score:
    """The score of one set of probabilities; `nll` in nats an image, `ece` over 15 equal bins of top-1 confidence."""

    top1_error: float
    top5_error: float
    nll: float
    ece: float


@dataclass(frozen=True)
class TableRow:
    """A row of the paper's table: the mean of `members`' scores, or the score of their averaged probabilities."""

    name: str
    members: tuple[str, ...]
    averaged: bool


@dataclass(frozen=True)
class Reading:
    """What all scores need of each image by one set of probabilities; arrays are (rows,).

    `guess` is the most probable class, `place` how many classes come before the right one, `right` the right class's
    probability and `confidence` the guess's. Of combined probabilities alone, else empty: `squares`, the sum of all
    squared probabilities, and `set_size`, the number of classes in the prediction set, if there are sets.
    """

    guess: NDArray[np.int64]
    place: NDArray[np.int64]
    right: NDArray[np.float32]
    confidence: NDArray[np.float32]
    squares: NDArray[np.float64]
    set_size: NDArray[np.int64]

    @property
    def wrong(self) -> NDArray[np.float64]:
        """Returns 1 for each image whose guess is wrong, else 0."""
        return (self.place > 0).astype(np.float64)

    def at(self, rows: NDArray[np.int64]) -> "Reading":
        """Returns the reading of some `rows`."""
        return Reading(*(own[rows] if own.size else own for own in vars(self).values()))


def read_images(sets: Sequence[Rows], labels: Labels) -> list[Reading]:
    """Reads `sets` of probabilities (each rows × classes) against `labels` (rows,), on several threads.

    In one pass: what is `Combined` is made of the blocks that are read of its members. Memory grows with rows × sets.
    """
    num_rows, num_classes = sets[0].shape
    assert num_rows == len(labels) > 0, "one label a row"
    single = {id(own): own for one in sets for own in (one.members if isinstance(one, Combined) else (one,))}

    def read(rows: slice) -> list[tuple[NDArray[Any], ...]]:
        held = {key: own[rows] for key, own in single.items()}
        return [_look(one, held, labels[rows]) for one in sets]

    parts = map_in_order(read, blocks(num_rows, num_classes * len(single), _HELD_ELEMENTS))
    return [Reading(*map(np.concatenate, zip(*own, strict=True))) for own in zip(*parts, strict=True)]


def _look(one: Rows, held: Mapping[int, Block], own: Labels) -> tuple[NDArray[Any], ...]:
    squares, sizes = np.empty(0), np.empty(0, np.int64)
    if isinstance(one, Combined):
        block = Combined([held[id(member)] for member in one.members], one.combination)[:]
        squares = np.einsum("ij,ij->i", block, block, dtype=np.float64)
        sizes = sizes if one.combination.sets is None else one.combination.sets.sizes(block)
    else:
        block = held[id(one)]
    at, guess = np.arange(len(own)), block.argmax(axis=1)
    return guess, ranks(block, own), block[at, own], block[at, guess], squares, sizes


def score(reading: Reading) -> Score:
    """Scores the probabilities that were read."""
    place, sure = reading.place, reading.confidence.astype(np.float64)
    excess = np.bincount(bins_of(sure), sure - (place == 0))
    # Taken from zero, since the negative of zero would be shown as -0.0000.
    nll = 0.0 - np.log(np.clip(reading.right.astype(np.float64), SMALLEST_PROBABILITY, 1.0)).mean()
    return Score(
        float(reading.wrong.mean()), float((place >= 5).mean()), float(nll), float(np.abs(excess).sum()) / len(place)
    )


def bins_of(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the bin (lower, upper] of each confidence, of equal width."""
    return np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)


def macro_averages(reading: Reading, labels: Labels, num_classes: int) -> dict[str, float]:
    """Returns macro-F1 and balanced accuracy, as scikit-learn defines them."""
    right = reading.right.astype(np.float64)
    answers = Answers(labels, reading.guess, reading.place, right, reading.squares, num_classes)
    return {str(metric): value_of(metric, answers) for metric in (Metric.macro_f1, Metric.balanced_accuracy)}


def mean_score(scores: Sequence[Score]) -> Score:
    """Returns the mean of members' own scores."""
    return Score(*map(fmean, zip(*map(astuple, scores), strict=True)))


def disagreements(guesses: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the share of rows in which two members' top-1 classes differ (members, members)."""
    return np.array([(guesses != own).mean(axis=1) for own in guesses])


def error_correlations(guesses: NDArray[np.int64], labels: Labels) -> NDArray[np.float64]:
    """Returns how members' top-1 errors correlate (members, members); NaN where a member is always right or wrong."""
    if len(labels) < 2:
        return np.full((len(guesses), len(guesses)), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.atleast_2d(np.corrcoef(guesses != labels))


def table_rows(base: Sequence[str], pretrained: Sequence[str], outside: Sequence[str] = ()) -> tuple[TableRow, ...]:
    """Returns the paper's rows with the actual counts, then a row for each member from outside.

    Rows that would be empty or repeat another are omitted.
    """
    rows: list[TableRow] = []
    everyone = (*base, *pretrained)
    if base:
        rows.append(TableRow("1 CNN", tuple(base), averaged=False))
    if len(base) > 1:
        rows.append(TableRow(f"{len(base)} CNNs", tuple(base), averaged=True))
    if pretrained:
        rows.append(TableRow("1 CNN*", tuple(pretrained), averaged=False))
        if len(everyone) > 1:
            rows.append(TableRow(f"{len(everyone)} CNNs*", everyone, averaged=True))
    return (*rows, *(TableRow(f"{name}, from outside", (name,), averaged=False) for name in outside))
