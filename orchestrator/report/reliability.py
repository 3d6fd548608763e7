"""Measures how far stated probabilities are from how often they come true. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine import SMALLEST_PROBABILITY, Combined, Interval, PredictionSets
from orchestrator.fitting import wilson
from orchestrator.report.scores import NUM_BINS, Reading, bins_of


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


def states(combined: Combined) -> tuple[Combined, ...]:
    """Returns what to read for `measure`: `combined`, and before it what was not calibrated, if it is."""
    used = combined.combination
    if used.calibration is None or not used.calibration.is_taken:
        return (combined,)
    return Combined(combined.members, replace(used.uncalibrated, sets=None)), combined


def measure(readings: Sequence[Reading], combined: Combined) -> Calibrated:
    """Measures the `readings` of the `states` of `combined`."""
    before, *after = (_measured(one, combined.shape[1]) for one in readings)
    return Calibrated(before, after[0] if after else None, combined.combination.sets)


def _measured(reading: Reading, num_classes: int) -> Reliability:
    right, confidence = reading.right.astype(np.float64), reading.confidence.astype(np.float64)
    num_rows, place, sizes = len(right), reading.place, reading.set_size
    # Images that are equally sure are in one bin, whatever their order.
    by_count = np.searchsorted(np.sort(confidence), confidence) * NUM_BINS // num_rows
    equal_width, equal_mass = (_bins(where, confidence, place == 0) for where in (bins_of(confidence), by_count))
    return Reliability(
        nll=float(0.0 - np.log(np.clip(right, SMALLEST_PROBABILITY, 1.0)).mean()),
        # Two classes count as one probability, as in Brier's binary score.
        brier=float((reading.squares - 2 * right + 1).mean()) * (0.5 if num_classes == 2 else 1.0),
        ece=_error(equal_width),
        ece_equal_mass=_error(equal_mass),
        coverage=float((place < sizes).mean()) if sizes.size else None,
        set_size=float(sizes.mean()) if sizes.size else None,
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
