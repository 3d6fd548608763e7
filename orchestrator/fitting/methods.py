"""Fits how members are combined: weights on a simplex, selection with replacement, logistic regression. Pure.

scikit-learn is imported where it is needed, since it takes a second.

Each method returns candidates, the plainest first; cross-fitting chooses between them (`orchestrator.fitting.choice`).
Members come in an order that does not depend on their names, and all random numbers have a fixed seed.
"""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from orchestrator.combine import SMALLEST_PROBABILITY, Combination, Stacking
from orchestrator.config import CombineMethod, Metric
from orchestrator.fitting.sample import Sample, Scored

Fit = Callable[[Sample, Metric], tuple[Combination, ...]]
# Coefficients and constants of `Stacking`.
_Regression = tuple[NDArray[np.float64], NDArray[np.float64]]

# Weights and coefficients are stored, and used, in millionths.
MILLION = 1_000_000
# Shares of the way from equal weights to the likeliest ones.
_SHARES = (0.25, 0.5, 0.75, 1.0)
_STEPS, _SETTLED = 300, 1e-7
_BAGS, _PICKS = 10, 20
# Selection scores many combinations; it looks at fewer rows of large samples.
_MOST_SELECTED = 2**22
# Inverse strengths of the penalty.
_STRENGTHS = (0.001, 0.01, 0.1)
_MOST_ITERATIONS = 200
MOST_STACKED_CLASSES = 50


def rounded_weights(weights: NDArray[np.float64]) -> tuple[float, ...]:
    """Returns non-negative `weights` as whole millionths that sum to 1: the largest remainders are rounded up."""
    exact = weights / weights.sum() * MILLION
    whole = np.floor(exact).astype(np.int64)
    lacking = MILLION - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:lacking]] += 1
    return tuple((whole / MILLION).tolist())


def fit_weighted(sample: Sample) -> tuple[Combination, ...]:
    """Returns weights between equal ones and those with the highest likelihood, by expectation maximisation."""
    num_members = len(sample.probabilities)
    right = np.take_along_axis(sample.probabilities, sample.right[None, :, None], axis=2)[:, :, 0].astype(np.float64)
    np.maximum(right, SMALLEST_PROBABILITY, out=right)
    weights = equal = np.full(num_members, 1 / num_members)
    for _ in range(_STEPS):
        before, weights = weights, weights * (right / (weights @ right)).mean(axis=1)
        if np.abs(weights - before).max() < _SETTLED:
            break
    return tuple(
        Combination(CombineMethod.weighted, rounded_weights(equal + share * (weights - equal))) for share in _SHARES
    )


def fit_greedy(sample: Sample, metric: Metric) -> tuple[Combination, ...]:
    """Returns the weights of bagged selection with replacement (Caruana et al. 2004) by `metric`.

    A bag draws images again; members join one at a time, the best sum is kept. Bags are averaged.
    """
    stride = -(-sample.probabilities.size // _MOST_SELECTED)
    rows = np.arange(0, sample.num_rows, stride)
    generator = np.random.Generator(np.random.PCG64(0))
    bags = [_select(sample.at(generator.choice(rows, size=len(rows))), metric) for _ in range(_BAGS)]
    return (Combination(CombineMethod.greedy, rounded_weights(np.mean(bags, axis=0))),)


def _select(bag: Sample, metric: Metric) -> NDArray[np.float64]:
    counts, total = np.zeros(len(bag.probabilities)), np.zeros(bag.classes.shape)
    best, best_counts = (np.inf, np.inf), counts
    for pick in range(1, _PICKS + 1):
        tried = [Scored(bag, (total + own) / pick) for own in bag.probabilities]
        # Errors are often equal; the log-likelihood then tells.
        losses = [(one.loss(metric), one.loss(Metric.log_loss)) for one in tried]
        chosen = min(range(len(losses)), key=losses.__getitem__)
        counts[chosen] += 1
        total = total + bag.probabilities[chosen]
        if losses[chosen] < best:
            best, best_counts = losses[chosen], counts / pick
    return best_counts


def fit_stacked(sample: Sample) -> tuple[Combination, ...]:
    """Returns multinomial logistic regressions on log-probabilities, each with another penalty.

    Above 50 classes, or if a class has no image, a member has one coefficient for all classes and a class one constant;
    the penalty then pulls towards the geometric mean.
    """
    # Of so few classes a sample keeps all.
    whole = sample.num_classes <= MOST_STACKED_CLASSES and len(np.unique(sample.labels)) == sample.num_classes
    logs = np.log(np.maximum(sample.probabilities.astype(np.float64), SMALLEST_PROBABILITY))
    fits = _full_regressions(sample, logs) if whole else _shared_regressions(sample, logs)
    return tuple(_stacked(*fit) for fit in fits)


def _stacked(coefficients: NDArray[np.float64], constants: NDArray[np.float64]) -> Combination:
    """Returns the combination, in millionths; a member's weight, for tables, is its coefficient on the class itself."""
    coefficients = np.round(coefficients, 6)
    own = coefficients if coefficients.ndim == 1 else np.trace(coefficients, axis1=1, axis2=2) / coefficients.shape[1]
    stacking = Stacking(coefficients.tolist(), np.round(constants, 6).tolist())
    return Combination(CombineMethod.stacked, tuple(np.round(own, 6).tolist()), stacking=stacking)


def _full_regressions(sample: Sample, logs: NDArray[np.float64]) -> Iterator[_Regression]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    num_members, num_rows, num_classes = logs.shape
    # A constant in a member's row changes no score; without it, and on one scale, the fit converges.
    centred = logs - logs.mean(axis=2, keepdims=True)
    scale = float(centred.std()) or 1.0
    features = centred.transpose(1, 0, 2).reshape(num_rows, num_members * num_classes) / scale
    for strength in _STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=_MOST_ITERATIONS)
        with warnings.catch_warnings():
            # Where it stops is the same each time, and cross-fitting tells what that is worth.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features, sample.labels)
        coefficients, constants = model.coef_ / scale, model.intercept_
        if num_classes == 2:
            # scikit-learn gives the second class's alone.
            coefficients, constants = (np.concatenate([0 * one, one]) for one in (coefficients, constants))
        by_member = coefficients.reshape(num_classes, num_members, num_classes).transpose(1, 0, 2)
        yield by_member - by_member.mean(axis=2, keepdims=True), constants


def _shared_regressions(sample: Sample, logs: NDArray[np.float64]) -> Iterator[_Regression]:
    num_members, num_rows, _ = logs.shape
    rows, start = np.arange(num_rows), np.zeros(num_members + sample.num_classes)
    start[:num_members] = 1 / num_members

    def cost(given: NDArray[np.float64], strength: float) -> tuple[float, NDArray[np.float64]]:
        shares, constants = given[:num_members], given[num_members:]
        scores = np.tensordot(shares, logs, axes=1) + constants[sample.classes]
        scores -= scores.max(axis=1, keepdims=True)
        likely = np.exp(scores)
        likely /= likely.sum(axis=1, keepdims=True)
        right = np.maximum(likely[rows, sample.right], SMALLEST_PROBABILITY)
        away, penalty = given - start, 1 / strength
        likely[rows, sample.right] -= 1
        by_class = np.bincount(sample.classes.ravel(), likely.ravel(), minlength=sample.num_classes)
        slope = np.concatenate([(logs * likely).sum(axis=(1, 2)), by_class]) + penalty * away
        return float(-np.log(right).sum() + penalty * (away**2).sum() / 2), slope

    for strength in _STRENGTHS:
        found = minimize(cost, start, (strength,), jac=True, method="L-BFGS-B").x
        yield found[:num_members], found[num_members:]


FITS: dict[CombineMethod, Fit] = {
    # By likelihood; the metric then chooses between the candidates.
    CombineMethod.weighted: lambda sample, _: fit_weighted(sample),
    CombineMethod.greedy: fit_greedy,
    CombineMethod.stacked: lambda sample, _: fit_stacked(sample),
}
