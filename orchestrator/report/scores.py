"""Computes errors, NLL, calibration and disagreement, and the rows of the paper's table. Pure.

Errors are in [0, 1]. Top-k ties go to the lower class index, as in a submission.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine import SMALLEST_PROBABILITY, Labels, Rows, blocks, ranks, top_classes

NUM_BINS = 15


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


def score(probabilities: Rows, labels: Labels) -> Score:
    """Scores `probabilities` (num_rows, num_classes) against `labels` (num_rows,), block by block."""
    return score_images(probabilities, labels)[0]


def score_images(probabilities: Rows, labels: Labels) -> tuple[Score, NDArray[np.bool_]]:
    """Returns `score`, and which images (num_rows,) are wrong by their top-1 class."""
    num_rows, num_classes = probabilities.shape
    assert num_rows == len(labels) > 0, "one label a row"
    wrong, wrong5 = np.empty(num_rows, np.bool_), 0
    nll = 0.0
    bins = np.zeros((3, NUM_BINS))
    for rows in blocks(num_rows, num_classes):
        block, own = probabilities[rows], labels[rows]
        place = ranks(block, own)
        wrong[rows] = place >= 1
        wrong5 += int((place >= 5).sum())
        right = block[np.arange(len(own)), own].astype(np.float64)
        nll -= float(np.log(np.clip(right, SMALLEST_PROBABILITY, 1.0)).sum())
        bins += _confidence_bins(block.max(axis=1).astype(np.float64), place == 0)
    _, confidence, correct = bins
    ece = float(np.abs(confidence - correct).sum()) / num_rows
    return Score(int(wrong.sum()) / num_rows, wrong5 / num_rows, nll / num_rows, ece), wrong


def _confidence_bins(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Returns (3, bins): number of rows, summed confidence and number of right rows in each bin (lower, upper]."""
    where = bins_of(confidence)
    weights = (np.ones_like(confidence), confidence, correct.astype(np.float64))
    return np.stack([np.bincount(where, weights=weight, minlength=NUM_BINS) for weight in weights])


def bins_of(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the bin (lower, upper] of each confidence, of equal width."""
    return np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)


def mean_score(scores: Sequence[Score]) -> Score:
    """Returns the mean of members' own scores."""
    return Score(*map(fmean, zip(*map(astuple, scores), strict=True)))


def guesses(members: Sequence[Rows]) -> NDArray[np.int64]:
    """Returns the top-1 classes (members, rows)."""
    parts = ([top_classes(member[rows], 1)[:, 0] for rows in blocks(*member.shape[:2])] for member in members)
    return np.stack([np.concatenate(part) for part in parts])


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
