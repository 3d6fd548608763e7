"""Fits are taken only if they help on images that they have not seen."""

import sys
from statistics import fmean

import numpy as np
import pytest
from synthetic import CASES, Case, draw

from orchestrator.combine import Combined, equal, mean
from orchestrator.config import FITTED, CombineMethod, Metric
from orchestrator.fitting import choose
from orchestrator.fitting.methods import FITS, rounded_weights
from orchestrator.fitting.metrics import loss, value
from orchestrator.fitting.sample import draw_sample

NUM_UNTOUCHED = 20_000


def _choose(method, members, labels, metric=Metric.top1):
    return choose(method, members, labels, metric, "dev")


def _untouched(found, case, seed):
    """The loss of a combination, and of the plain mean, on images that no fit has seen."""
    members, labels = draw(case, 10_000 + seed, NUM_UNTOUCHED)
    return [loss(case.metric, value(case.metric, each, labels)) for each in (Combined(members, found), mean(members))]


@pytest.mark.soak
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", FITTED)
def test_choose_in_twenty_draws_does_no_harm_and_knows_its_optimism(name, method):
    case, harm, covered, fits = CASES[name], [], [], []
    for seed in range(20):
        found = _choose(method, *draw(case, seed), case.metric)
        fits.append(found)
        ours, plain = _untouched(found, case, seed)
        harm.append(ours - plain)
        covered.append(found.fit.optimism.low <= ours - found.fit.fitted <= found.fit.optimism.high)
    taken = fmean(each.fit.is_taken for each in fits)
    worst = f"{fmean(harm):+.5f} ({min(harm):+.5f} to {max(harm):+.5f})"
    sys.stdout.write(f"{name}, {method}: {worst} to the mean, taken {taken:.2f}, covered {fmean(covered):.2f}\n")
    assert fmean(harm) <= 0.001
    assert fmean(covered) >= 0.85
    if case.bad and method is not CombineMethod.stacked:
        assert fmean(harm) < -0.001


@pytest.mark.parametrize("method", FITTED)
def test_choose_one_much_worse_member_gains_and_says_so(method):
    case = Case(4, 5, Metric.top1, num_images=600, bad=(1,))
    found = _choose(method, *draw(case, 3))
    ours, plain = _untouched(found, case, 3)
    assert found.fit.is_taken and found.method is method
    assert ours < plain
    assert found.weights[1] == min(found.weights)
    assert f"so {method} is used" in "".join(found.fit.lines())


@pytest.mark.parametrize("method", FITTED)
def test_choose_equal_members_keeps_the_mean(method):
    members, labels = draw(Case(1, 5, Metric.top1, num_images=200), 4)
    found = _choose(method, members * 3, labels)
    assert (found.method, found.weights) == (CombineMethod.mean, (1 / 3,) * 3)
    assert not found.fit.is_taken
    assert found.fit.mean == found.fit.fitted
    assert "the plain mean is kept" in "".join(found.fit.lines())


@pytest.mark.parametrize("metric", Metric)
def test_choose_every_metric_compares_with_the_mean_by_it(metric):
    case = Case(3, 4, metric, num_images=120)
    members, labels = draw(case, 5)
    found = _choose(CombineMethod.weighted, members, labels, metric)
    assert found.fit.mean == pytest.approx(loss(metric, value(metric, mean(members), labels)), abs=1e-6)
    assert found.fit.gain.estimate == pytest.approx(found.fit.mean - found.fit.cross_fitted, abs=1e-12)
    assert found.fit.optimism.low <= found.fit.optimism.estimate <= found.fit.optimism.high


def test_choose_cross_fitting_is_worse_than_the_fit_itself():
    """A fit that were scored on its own images would look better than it is."""
    members, labels = draw(Case(7, 10, Metric.log_loss, num_images=150), 6)
    found = _choose(CombineMethod.stacked, members, labels, Metric.log_loss)
    assert found.fit.cross_fitted > 0
    whole = _choose(CombineMethod.stacked, members, labels, Metric.log_loss)
    assert whole == found, "the same fit again"


def test_choose_with_classes_without_an_image_stacks_with_shared_coefficients():
    members, labels = draw(Case(3, 6, Metric.log_loss, num_images=400, bad=(0,)), 7)
    labels[labels == 5] = 4
    found = _choose(CombineMethod.stacked, members, labels, Metric.log_loss)
    assert found.fit.is_taken
    assert np.ndim(found.stacking.factors) == 1
    assert len(found.stacking.constants) == 6


def test_draw_sample_keeps_the_right_class_and_thins_evenly():
    members, labels = draw(Case(2, 100, Metric.top1, num_images=300), 8)
    sample = draw_sample(members, labels, max_elements=2 * 64 * 100)
    assert sample.probabilities.shape == (2, 100, 64)
    assert sample.labels.tolist() == labels[::3].tolist()
    rows = np.arange(100)
    assert (sample.classes[rows, sample.right] == sample.labels).all()
    np.testing.assert_array_equal(sample.probabilities[1, rows, sample.right], members[1][::3][rows, labels[::3]])
    assert (np.diff(sample.classes, axis=1) > 0).all()


def test_sample_combined_with_some_classes_has_the_probabilities_of_all():
    """Normalised over the kept classes alone, a stacked ensemble would look surer than it is."""
    members, labels = draw(Case(3, 90, Metric.log_loss, num_images=200), 9)
    sample = draw_sample(members, labels)
    for stacked in (equal(CombineMethod.geometric, 3), FITS[CombineMethod.stacked](sample, Metric.log_loss)[0]):
        whole = Combined(members, stacked)[:]
        rows = np.array([7, 7, 3, 150])
        kept = sample.at(rows).combined(stacked).combined
        np.testing.assert_allclose(kept, np.take_along_axis(whole, sample.classes, axis=1)[rows], rtol=1e-6)
        assert kept.sum(axis=1).max() < 1 - 1e-4


def test_choose_members_that_know_nothing_gain_nothing_by_how_frequent_classes_are_here():
    """Folds with equally many images of each class would let a fit learn the frequencies of the fold that judges it."""
    gains = []
    for seed in range(4):
        members, _ = draw(Case(2, 60, Metric.log_loss, num_images=300), seed)
        labels = np.random.default_rng(50 + seed).integers(60, size=300)
        even = [(0.9999 / 60 + 0.0001 * member).astype(np.float32) for member in members]
        gains.append(_choose(CombineMethod.stacked, even, labels, Metric.log_loss).fit.gain.estimate)
    assert fmean(gains) < 0.002


def test_rounded_weights_sum_to_one_in_millionths():
    found = rounded_weights(np.array([1.0, 1.0, 1.0]))
    assert found == (0.333334, 0.333333, 0.333333)
    assert rounded_weights(np.array([0.0, 2.0])) == (0.0, 1.0)
