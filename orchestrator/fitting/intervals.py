"""Computes confidence intervals and tests over images: Wilson, paired bootstrap, McNemar. Pure.

Sources: Wilson 1927; Efron 1987 (BCa); McNemar 1947, in its exact form. A launch does without scipy.stats, which takes
half a second to load.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtr, ndtri

from orchestrator.combine import Interval

CONFIDENCE = 0.95
DRAWS = 10_000
# At most so many numbers are drawn for one interval (8 bytes each are never held at once); fewer draws for more images.
_MOST_NUMBERS = 2**28
_FEWEST_DRAWS = 1_000
_HELD_NUMBERS = 2**22
_FEW_VALUES = 64
_TIE = 1e-12


def wilson(num_errors: int, num_images: int, confidence: float = CONFIDENCE) -> Interval:
    """Returns Wilson's interval of an error rate; it is within [0, 1], and not empty at 0 errors."""
    rate, z = num_errors / num_images, float(ndtri((1 + confidence) / 2))
    divisor = 2 * (num_images + z**2)
    centre = (2 * num_images * rate + z**2) / divisor
    reach = z / divisor * math.sqrt(4 * num_images * rate * (1 - rate) + z**2)
    # At both ends exactly, as it is but for rounding.
    low, high = (centre - reach) * (num_errors > 0), centre + reach if num_errors < num_images else 1.0
    return Interval(rate, low, high)


def mcnemar(num_first: int, num_second: int) -> float:
    """Returns the exact two-sided p-value for `num_first` images that only the first of two answers gets wrong."""
    total = num_first + num_second
    return min(1.0, 2 * float(bdtr(min(num_first, num_second), total, 0.5)))


def mean_interval(values: NDArray[np.float64], confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """Returns the BCa bootstrap interval of the mean of `values` (images,), for example of paired differences.

    Where all values are equal, no bootstrap can tell how far another sample would be off. The interval then reaches to
    the mean of a sample in which a share of the images, as large as Wilson's bound for 0 of so many, differs by 1.
    """
    found, counts = np.unique(values, return_counts=True)
    if len(found) > _FEW_VALUES:
        return mean_intervals(values[None], confidence, seed)[0]
    num_images, generator = len(values), np.random.Generator(np.random.PCG64(seed))
    drawn = generator.multinomial(num_images, counts / num_images, size=DRAWS)
    return _bca(values, drawn @ found / num_images, confidence)


def mean_intervals(values: NDArray[np.float64], confidence: float = CONFIDENCE, seed: int = 0) -> tuple[Interval, ...]:
    """Returns `mean_interval` of each row of `values` (rows, images), from the same draws of images."""
    num_images = values.shape[1]
    generator = np.random.Generator(np.random.PCG64(seed))
    num_draws = max(_FEWEST_DRAWS, min(DRAWS, _MOST_NUMBERS // num_images))
    step, parts = max(1, _HELD_NUMBERS // num_images), []
    for start in range(0, num_draws, step):
        drawn = generator.integers(num_images, size=(min(step, num_draws - start), num_images))
        drawn += np.arange(len(drawn))[:, None] * num_images
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        parts.append(counts.astype(np.float64) @ values.T / num_images)
    means = np.concatenate(parts)
    return tuple(_bca(own, means[:, row], confidence) for row, own in enumerate(values))


def _bca(values: NDArray[np.float64], drawn: NDArray[np.float64], confidence: float) -> Interval:
    """Returns the interval of the mean of `values` from the `drawn` means (draws,)."""
    mean, means = float(values.mean()), np.sort(drawn)
    if np.ptp(values) == 0:
        reach = wilson(0, len(values), confidence).high
        return Interval(mean, mean - reach, mean + reach)
    # The share of draws below, with ties by half, since means of errors take few values; sums may be rounded.
    ties = (np.searchsorted(means, mean - _TIE, "left"), np.searchsorted(means, mean + _TIE, "right"))
    below = sum(ties) / 2 / len(means)
    bias = ndtri(min(max(below, 1 / len(means)), 1 - 1 / len(means)))
    centred = values - mean
    # The acceleration of a mean, from its jackknife values.
    acceleration = float((centred**3).sum() / (6 * (centred**2).sum() ** 1.5))
    z = bias + ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.quantile(means, ndtr(bias + z / (1 - acceleration * z))).tolist()
    return Interval(mean, low, high)


def resampled(
    statistic: Callable[[NDArray[np.int64]], float],
    num_images: int,
    num_draws: int = _FEWEST_DRAWS,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Returns the percentile bootstrap interval of a `statistic` of row indexes, for what is no mean over images.

    Draws in which it is NaN are left out.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    drawn = (statistic(generator.integers(num_images, size=num_images)) for _ in range(num_draws))
    kept = [one for one in drawn if not math.isnan(one)]
    estimate = statistic(np.arange(num_images))
    low, high = np.quantile(kept, [(1 - confidence) / 2, (1 + confidence) / 2]) if kept else (math.nan, math.nan)
    return Interval(estimate, float(low), float(high))
