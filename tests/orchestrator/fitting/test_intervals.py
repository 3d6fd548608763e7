"""Intervals cover the truth as often as they say."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from orchestrator.fitting.intervals import mcnemar, mean_interval, resampled, wilson

NUM_IMAGES = 500


@pytest.mark.parametrize("error", [0.05, 0.2, 0.5])
def test_wilson_covers_the_error_in_95_of_100_draws(error):
    drawn = np.random.default_rng(1).binomial(NUM_IMAGES, error, size=1000)
    found = [wilson(int(count), NUM_IMAGES) for count in drawn]
    assert 0.93 <= np.mean([one.low <= error <= one.high for one in found]) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("error", [0.05, 0.2, 0.5])
def test_mean_interval_covers_a_difference_in_95_of_100_draws(error):
    """The first of two answers errs on `error` of the images; the second errs on 0.03 fewer, and not on the same."""
    generator, covered = np.random.default_rng(2), []
    for draw in range(1000):
        first = generator.random(NUM_IMAGES) < error
        second = np.where(generator.random(NUM_IMAGES) < 0.6, first, generator.random(NUM_IMAGES) < error)
        second &= generator.random(NUM_IMAGES) > 0.03 / error
        truth = error - error * (1 - 0.03 / error)
        found = mean_interval(first.astype(float) - second, seed=draw)
        covered.append(found.low <= truth <= found.high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_mean_interval_agrees_with_scipys_bca():
    values = np.random.default_rng(3).exponential(size=300)
    theirs = bootstrap((values,), np.mean, n_resamples=10_000, rng=np.random.default_rng(4)).confidence_interval
    ours = mean_interval(values)
    assert ours.estimate == values.mean()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)


def test_mean_interval_of_few_values_agrees_with_that_of_many():
    """Both ways to draw: by counts of each value, and image by image."""
    values = np.random.default_rng(5).choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=400)
    by_image = values + np.random.default_rng(6).uniform(-1e-9, 1e-9, size=400)
    few, many = mean_interval(values), mean_interval(by_image)
    assert (few.low, few.high) == pytest.approx((many.low, many.high), abs=0.004)


def test_mean_interval_of_equal_values_is_not_empty():
    found = mean_interval(np.zeros(NUM_IMAGES))
    assert found.low == -found.high == -wilson(0, NUM_IMAGES).high
    assert found.high == pytest.approx(0.0076, abs=1e-4)


def test_mcnemar_is_the_two_sided_binomial_test():
    assert mcnemar(0, 0) == mcnemar(5, 5) == 1.0
    assert mcnemar(0, 6) == mcnemar(6, 0) == 2 * 0.5**6


def test_resampled_of_a_mean_agrees_with_mean_interval():
    values = np.random.default_rng(7).normal(size=400)
    found, wanted = resampled(lambda rows: float(values[rows].mean()), 400), mean_interval(values)
    assert found.estimate == pytest.approx(wanted.estimate)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.02)


def test_resampled_leaves_out_draws_without_a_value():
    found = resampled(lambda rows: float("nan") if 0 in rows else 1.0, 3)
    assert (found.low, found.high) == (1.0, 1.0)
