"""Chooses between a fitted combination and the plain mean by cross-fitting; says how optimistic the fit is. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from orchestrator.combine import (
    LEAST_IMAGES,
    Block,
    Combination,
    Fit,
    Interval,
    Labels,
    Rows,
    blocks,
    combine_block,
    equal,
    gather,
    too_few,
)
from orchestrator.config import CombineMethod, Metric
from orchestrator.fitting.intervals import CONFIDENCE, mean_interval, resampled
from orchestrator.fitting.methods import FITS
from orchestrator.fitting.metrics import image_losses, loss, value_of
from orchestrator.fitting.sample import Scored, draw_sample

# With five, fits to four fifths of the images are so much worse that the optimism comes out too large.
NUM_FOLDS = 10


def choose(
    asked: CombineMethod,
    members: Sequence[Rows],
    labels: Labels,
    metric: Metric,
    split: str,
    plain: Combination | None = None,
) -> Combination:
    """Fits `asked` to `members` (each rows × classes) and `labels` (rows,), and takes it if it beats the plain mean.

    It is taken if the interval of the cross-fitted gain lies above 0; else the mean is kept: `plain`, if members stand
    for several each. `split`, their split's name, is only recorded. Of fewer rows than LEAST_IMAGES nothing is fitted.
    """
    fits, plain = FITS[asked], plain or equal(CombineMethod.mean, len(members))
    if len(labels) < LEAST_IMAGES:
        return replace(plain, note=too_few(f"combine={asked}", len(labels), split, "the plain mean"))
    # One thread: sums have one order, and the process may be beside others that train.
    with threadpool_limits(1):
        sample = draw_sample(members, labels)
        pairs = list(folds_and_others(fold_of_rows(sample.num_rows)))
        held = [
            [sample.at(inside).combined(one).combined for one in fits(sample.at(outside), metric)]
            for inside, outside in pairs
        ]
        ordered = sample.at(np.concatenate([inside for inside, _ in pairs]))
        crossed = [Scored(ordered, np.concatenate(parts)) for parts in zip(*held, strict=True)]
        losses = [one.loss(metric) for one in crossed]
        best = losses.index(min(losses))
        mean = ordered.combined(plain)
        gain = loss_interval([(1, mean), (-1, crossed[best])], metric)
        is_taken = gain.low > 0
        taken, unseen = (fits(sample, metric)[best], crossed[best]) if is_taken else (plain, mean)
        fitted = sample.combined(taken).loss(metric)
        ahead = loss_interval([(1, unseen)], metric)
    optimism = Interval(ahead.estimate - fitted, ahead.low - fitted, ahead.high - fitted)
    plain_loss = mean.loss(metric)
    fit = Fit(asked, metric, split, sample.num_rows, plain_loss, fitted, losses[best], gain, optimism, is_taken)
    return replace(taken, fit=fit)


def out_of_fold(
    combination: Combination, members: Sequence[Rows], labels: Labels, stride: int
) -> tuple[Block, NDArray[np.int64]]:
    """Returns every `stride`-th row of `members` combined by fits to other folds, as a new image is; and its fold."""
    parts, folds = [combination] * NUM_FOLDS, fold_of_rows(len(labels))
    if (fit := combination.fit) is not None and fit.is_taken:
        sample, fits = draw_sample(members, labels), FITS[fit.asked]
        folds[sample.rows] = kept = fold_of_rows(sample.num_rows)
        # Which of the candidates was taken; another CPU may have rounded it otherwise.
        far = [np.abs(np.subtract(one.weights, combination.weights)).max() for one in fits(sample, fit.metric)]
        others = (sample.at(np.flatnonzero(kept != fold)) for fold in range(NUM_FOLDS))
        parts = [fits(other, fit.metric)[int(np.argmin(far))] for other in others]
    rows = np.arange(0, len(labels), stride)
    folds, block = folds[rows], np.empty((len(rows), members[0].shape[1]), np.float32)
    for some in blocks(len(rows), block.shape[1] * len(members)):
        read = [gather(member, rows[some]) for member in members]
        for fold, part in enumerate(parts):
            inside = folds[some] == fold
            block[some][inside] = combine_block(part, part.used([each[inside] for each in read]))
    return block, folds


def fold_of_rows(num_rows: int) -> NDArray[np.int64]:
    """Returns the fold (rows,) of each row, drawn with a fixed seed.

    Classes are not spread evenly: folds with equally many images of a class would tell a fit how frequent that is in
    the others, which nothing tells of new images.
    """
    return np.random.Generator(np.random.PCG64(0)).permutation(num_rows) % NUM_FOLDS


def folds_and_others(folds: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yields the rows of each fold, and those of the others, where both have some."""
    for fold in range(NUM_FOLDS):
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if len(inside) and len(outside):
            yield inside, outside


def loss_interval(parts: Sequence[tuple[float, Scored]], metric: Metric, confidence: float = CONFIDENCE) -> Interval:
    """Returns the bootstrap interval, over images, of a sum of losses by `metric` of the same rows, with factors."""
    answers = [(factor, scored.answers) for factor, scored in parts]
    losses = [(factor, own) for factor, each in answers if (own := image_losses(metric, each)) is not None]
    if losses:
        return mean_interval(np.sum([factor * own for factor, own in losses], axis=0), confidence)

    def total(rows: NDArray[np.int64]) -> float:
        if metric is Metric.auc:
            return sum((factor * scored.at(rows).loss(metric) for factor, scored in parts), 0.0)
        return sum((factor * loss(metric, value_of(metric, each.at(rows))) for factor, each in answers), 0.0)

    # Each draw of an area under a curve sorts every class.
    return resampled(total, parts[0][1].sample.num_rows, 200 if metric is Metric.auc else 1_000, confidence)
