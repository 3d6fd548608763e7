"""Measures how far stated probabilities are from how often they come true. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine import SMALLEST_PROBABILITY, Combined, Interval, Labels, PredictionSets, blocks, ranks
from orchestrator.fitting import wilson
from orchestrator.report.scores import NUM_BINS, bins_of


@dataclass(frozen=True)
class Bin:
    """Images of like top-1 confidence: the lowest, the highest and the mean one; and what share is right (Wilson's)."""

    num_images: int
    lowest: float
    highest: float
    confidence: float
    right: Interval


@dataclass(frozen=True)
class Reliability:
    """Means over images: `nll` in nats, `brier` as the metric of that name, and how sets fare, if there are some.

    `ece` is of 15 equally wide bins of the top-1 confidence, `ece_equal_mass` of 15 bins of equally many images.
    `coverage` is the share of prediction sets with the right class, `set_size` their mean number of classes. The bins
    are those that have images, by rising confidence.
    """

    nll: float
    brier: float
    ece: float
    ece_equal_mass: float
    coverage: float | None
    set_size: float | None
    equal_width: tuple[Bin, ...]
    equal_mass: tuple[Bin, ...]


@dataclass(frozen=True)
class Calibrated:
    """How reliable an ensemble is `before` calibration and `after`, None without one, and how its sets are made."""

    before: Reliability
    after: Reliability | None
    sets: PredictionSets | None


def measure(combined: Combined, labels: Labels) -> Calibrated:
    """Measures `combined` on the rows with `labels` (rows,)."""
    used = combined.combination
    now = _read(combined, labels, used.sets)
    if used.calibration is None or not used.calibration.is_taken:
        return Calibrated(now, None, used.sets)
    return Calibrated(_read(Combined(combined.members, used.uncalibrated), labels, None), now, used.sets)


def _read(combined: Combined, labels: Labels, sets: PredictionSets | None) -> Reliability:
    num_rows, num_classes = combined.shape
    right, confidence, squares, place, sizes = (np.empty(num_rows) for _ in range(5))
    for rows in blocks(num_rows, num_classes):
        block, own = combined[rows], labels[rows]
        right[rows], confidence[rows] = block[np.arange(len(own)), own], block.max(axis=1)
        squares[rows] = (block.astype(np.float64) ** 2).sum(axis=1) - 2 * right[rows] + 1
        place[rows] = ranks(block, own)
        if sets is not None:
            sizes[rows] = sets.sizes(block)
    # Images that are equally sure are in one bin, whatever their order.
    by_count = np.searchsorted(np.sort(confidence), confidence) * NUM_BINS // num_rows
    equal_width, equal_mass = (_bins(where, confidence, place == 0) for where in (bins_of(confidence), by_count))
    return Reliability(
        nll=float(-np.log(np.clip(right, SMALLEST_PROBABILITY, 1.0)).mean()),
        # Two classes count as one probability, as in Brier's binary score.
        brier=float(squares.mean()) * (0.5 if num_classes == 2 else 1.0),
        ece=_error(equal_width),
        ece_equal_mass=_error(equal_mass),
        coverage=None if sets is None else float((place < sizes).mean()),
        set_size=None if sets is None else float(sizes.mean()),
        equal_width=equal_width,
        equal_mass=equal_mass,
    )


def _bins(where: NDArray[np.int64], confidence: NDArray[np.float64], is_right: NDArray[np.bool_]) -> tuple[Bin, ...]:
    found = []
    for place in np.unique(where):
        own = where == place
        sure, share = confidence[own], wilson(int(is_right[own].sum()), int(own.sum()))
        found.append(Bin(len(sure), float(sure.min()), float(sure.max()), float(sure.mean()), share))
    return tuple(found)


def _error(bins: tuple[Bin, ...]) -> float:
    """Returns the mean over images of how far their bin's mean confidence is from its share of right ones."""
    off = [abs(one.confidence - one.right.estimate) for one in bins]
    return float(np.average(off, weights=[one.num_images for one in bins]))
