"""Defines the calibration of combined probabilities and their prediction sets, as manifest.json keeps them. Pure.

Sources: Guo et al. 2017 (temperature); Zadrozny and Elkan 2002 (isotonic); Romano et al. 2020 (APS); Angelopoulos et
al. 2021 (RAPS).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine.fit import too_few
from orchestrator.combine.rows import SMALLEST_PROBABILITY, Block
from orchestrator.config import Calibrator, SetScore
from orchestrator.text import counted

# RAPS adds this for each place after the first five, so that sets of unlikely classes stay small.
_PENALTY, _FREE_PLACES = 0.01, 5


@dataclass(frozen=True)
class Calibration:
    """How combined probabilities are corrected, and the log-loss on `num_images` of `split` `before` and `after`.

    `after` is of fits to other folds of these images. `numbers` are the temperature alone; or the classes' factors,
    then their constants; or for each class the probabilities before, then after, at the corners of its curve. There are
    none if there were too few images to fit.
    """

    asked: Calibrator
    split: str
    num_images: int
    before: float
    after: float
    is_taken: bool
    numbers: Sequence[Any]

    def line(self) -> str:
        """Returns a line for people: what was gained in cross-fitting, and what is used."""
        setting = f"combine.calibration={self.asked}"
        if not self.numbers:
            return too_few(setting, self.num_images, self.split, "the uncalibrated average")
        used = "it is used" if self.is_taken else "the uncalibrated average is kept: that is not better with confidence"
        return (
            f"{setting}{self.temperature}, fitted to {counted(self.num_images, 'image')} of "
            f"{self.split}: cross-fitted log-loss {self.after:.4f}, before {self.before:.4f}, so {used}."
        )

    @property
    def temperature(self) -> str:
        return f" ({self.numbers[0]:g})" if self.asked is Calibrator.temperature else ""


def corrected(asked: Calibrator, numbers: Sequence[Any], block: Block) -> Block:
    """Returns combined probabilities (rows, classes) corrected; a temperature keeps each row's first guess."""
    if asked is Calibrator.isotonic:
        values = np.stack([np.interp(column, *curve) for column, curve in zip(block.T, numbers, strict=True)], axis=1)
    else:
        factors, constants = (1 / numbers[0], 0) if asked is Calibrator.temperature else np.array(numbers)
        values = np.log(np.maximum(block, SMALLEST_PROBABILITY, dtype=np.float64)) * factors + constants
        values = np.exp(values - values.max(axis=1, keepdims=True))
    result: Block = (values / values.sum(axis=1, keepdims=True)).astype(np.float32)
    if asked is Calibrator.temperature:
        # Rounding may make two probabilities equal, of which the lower class would then come first.
        best = block.argmax(axis=1)
        tied = np.flatnonzero(result.argmax(axis=1) != best)
        result[tied, best[tied]] = np.nextafter(result[tied].max(axis=1), np.float32(2))
    return result


@dataclass(frozen=True)
class PredictionSets:
    """How sets are made that hold the right class with probability `coverage`, without random numbers.

    A class scores the sum of the probabilities of the classes before it (RAPS: and a penalty for its place); a set has
    the classes with a score of at most `threshold`, so always the first guess. It is fitted to `num_images` of `split`.
    """

    kind: SetScore
    coverage: float
    split: str
    num_images: int
    threshold: float

    def sizes(self, block: Block) -> NDArray[np.int64]:
        """Returns how many of the most probable classes are in the set of each row of `block` (rows, classes)."""
        return np.asarray(np.count_nonzero(place_scores(self.kind, block) <= self.threshold, axis=1))


def place_scores(kind: SetScore, block: Block) -> NDArray[np.float64]:
    """Returns the score (rows, classes) of the class in each place, the most probable first; scores never fall."""
    scores = np.zeros(block.shape)
    np.cumsum(-np.sort(-block, axis=1)[:, :-1], axis=1, dtype=np.float64, out=scores[:, 1:])
    if kind is SetScore.raps:
        scores += _PENALTY * np.maximum(0, np.arange(block.shape[1]) + 1 - _FREE_PLACES)
    return scores
