"""Fits a calibration of combined probabilities by log-loss, then prediction sets. Pure.

Both are fitted to what each row gets from a combination that was fitted to other rows, at most 2²³ probabilities. The
sets are those of split conformal prediction (Vovk et al. 2005).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from orchestrator.combine import (
    LEAST_IMAGES,
    SMALLEST_PROBABILITY,
    Block,
    Calibration,
    Combination,
    Labels,
    PredictionSets,
    Rows,
    corrected,
    place_scores,
    ranks,
)
from orchestrator.config import Calibrator, CombineConfig
from orchestrator.fitting.choice import folds_and_others, out_of_fold
from orchestrator.fitting.intervals import mean_interval

_MAX_ELEMENTS = 2**23
_PLACES = 6
_HOTTEST = 20.0
# Of the squared distance of factors and constants from the temperature's, beside the summed log-loss.
_PENALTY = 10.0


def calibrate(
    combination: Combination, config: CombineConfig, members: Sequence[Rows], labels: Labels, split: str
) -> Combination:
    """Returns `combination` with the calibration and the prediction sets that `config` asks for.

    Both are fitted to `members` (each rows × classes) and `labels` (rows,) of `split`, whose name is only recorded.
    """
    with threadpool_limits(1):
        stride = -(-len(labels) * members[0].shape[1] // _MAX_ELEMENTS)
        block, folds = out_of_fold(combination, members, labels, stride)
        found, labels = None, labels[::stride]
        if config.calibration is not Calibrator.none:
            found, block = fit_calibration(config.calibration, block, labels, folds, split)
    return replace(combination, calibration=found, sets=_fit_sets(config, block, labels, split))


def fit_calibration(
    asked: Calibrator, block: Block, labels: Labels, folds: NDArray[np.int64], split: str
) -> tuple[Calibration, Block]:
    """Fits `asked` to `block` (rows, classes), and takes it if the interval of its cross-fitted gain lies above zero.

    Returns it, and `block` as new images would be: each row corrected by a fit to the rows of other `folds`. Of fewer
    rows than LEAST_IMAGES nothing is fitted.
    """
    if len(labels) < LEAST_IMAGES:
        loss = -float(_logs(block)[np.arange(len(labels)), labels].mean())
        return Calibration(asked, split, len(labels), loss, loss, False, []), block
    crossed = block.copy()
    for inside, outside in folds_and_others(folds):
        crossed[inside] = corrected(asked, _FITS[asked](block[outside], labels[outside]), block[inside])
    right = [_logs(each)[np.arange(len(labels)), labels] for each in (block, crossed)]
    before, after = (-float(each.mean()) for each in right)
    numbers = _FITS[asked](block, labels)
    found = Calibration(asked, split, len(labels), before, after, mean_interval(right[1] - right[0]).low > 0, numbers)
    return found, crossed if found.is_taken else block


def _fit_sets(config: CombineConfig, block: Block, labels: Labels, split: str) -> PredictionSets:
    """Fits to `block` (rows, classes), of images that no fit has seen, and `labels` (rows,) of `split`.

    The set of a new image holds its class with probability `config.coverage` at least; all sets hold all classes where
    too few images are there to tell.
    """
    num_rows = len(labels)
    scores = place_scores(config.sets, block)[np.arange(num_rows), ranks(block, labels)]
    place = math.ceil((num_rows + 1) * config.coverage)
    # Above any score.
    threshold = 1.0 + block.shape[1] if place > num_rows else float(np.partition(scores, place - 1)[place - 1])
    return PredictionSets(config.sets, config.coverage, split, num_rows, math.ceil(threshold * 1e6) / 1e6)


def _logs(block: Block) -> NDArray[np.float64]:
    return np.log(np.maximum(block, SMALLEST_PROBABILITY, dtype=np.float64))


def _fit_temperature(block: Block, labels: Labels) -> list[Any]:
    logs, rows = _logs(block), np.arange(len(labels))

    def loss(logarithm: float) -> float:
        return -float(log_softmax(logs * np.exp(-logarithm), axis=1)[rows, labels].mean())

    bounds = (-np.log(_HOTTEST), np.log(_HOTTEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9}).x
    return [round(float(np.exp(found)), _PLACES)]


def _fit_vector(block: Block, labels: Labels) -> list[Any]:
    logs, rows = _logs(block), np.arange(len(labels))
    start = np.zeros((2, block.shape[1]))
    start[0] = 1 / _fit_temperature(block, labels)[0]

    def cost(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        given = flat.reshape(start.shape)
        likely = log_softmax(logs * given[0] + given[1], axis=1)
        loss = _PENALTY / 2 * ((given - start) ** 2).sum() - likely[rows, labels].sum()
        slope = np.exp(likely)
        slope[rows, labels] -= 1
        slopes = np.stack([(slope * logs).sum(axis=0), slope.sum(axis=0)]) + _PENALTY * (given - start)
        return float(loss), slopes.ravel()

    options = {"ftol": 1e-14, "gtol": 1e-7, "maxiter": 500}
    found = minimize(cost, start.ravel(), jac=True, method="L-BFGS-B", options=options).x
    numbers: list[Any] = np.round(found.reshape(start.shape), _PLACES).tolist()
    return numbers


def _fit_isotonic(block: Block, labels: Labels) -> list[Any]:
    from sklearn.isotonic import IsotonicRegression

    # No class is impossible, as one would be that was never right where it was unlikely.
    least = max(10.0**-_PLACES, 1 / block.size)
    curves = []
    for place, column in enumerate(block.T):
        found = IsotonicRegression(y_min=least, y_max=1 - least).fit(column, labels == place)
        curves.append([np.round(each, _PLACES).tolist() for each in (found.X_thresholds_, found.y_thresholds_)])
    return curves


_FITS: dict[Calibrator, Callable[[Block, Labels], list[Any]]] = {
    Calibrator.temperature: _fit_temperature,
    Calibrator.vector: _fit_vector,
    Calibrator.isotonic: _fit_isotonic,
}
