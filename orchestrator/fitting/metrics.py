"""Computes the metrics of a submission from probabilities, as scikit-learn defines them. Pure.

Of two equally probable classes the one with the lower index comes first, as in a submission.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine import Labels, Rows, ranks
from orchestrator.config import Metric

# As in scikit-learn's log_loss for float64.
SMALLEST = float(np.finfo(np.float64).eps)
IMAGE_METRICS = (Metric.top1, Metric.top5, Metric.log_loss, Metric.brier)


@dataclass(frozen=True)
class Answers:
    """What all metrics but `auc` need of each row; arrays are (rows,).

    `guess` is the most probable class, `rank` how many classes come before the right one, `right` the right class's
    probability, `squares` the sum over classes of (probability − 1 if right, else 0)².
    """

    labels: Labels
    guess: NDArray[np.int64]
    rank: NDArray[np.int64]
    right: NDArray[np.float64]
    squares: NDArray[np.float64]
    num_classes: int

    def at(self, rows: NDArray[np.int64]) -> "Answers":
        """Returns the answers of `rows`, which may repeat."""
        guess, rank, right, squares = self.guess[rows], self.rank[rows], self.right[rows], self.squares[rows]
        return Answers(self.labels[rows], guess, rank, right, squares, self.num_classes)


def read_answers(probabilities: Rows, labels: Labels) -> Answers:
    """Reads `probabilities` (rows, classes) against `labels` (rows,)."""
    block = np.asarray(probabilities[:], np.float64)
    right = block[np.arange(len(labels)), labels]
    squares = (block**2).sum(axis=1) - right**2 + (1 - right) ** 2
    return Answers(labels, block.argmax(axis=1), ranks(block, labels), right, squares, block.shape[1])


def value(metric: Metric, probabilities: Rows, labels: Labels) -> float:
    """Returns scikit-learn's value of `metric`; `top1` and `top5` are accuracies, `auc` is one class against the rest.

    `auc` averages over the classes that some rows have and others have not, NaN if there is none.
    """
    if metric is Metric.auc:
        return _auc(probabilities, labels)
    return value_of(metric, read_answers(probabilities, labels))


def value_of(metric: Metric, answers: Answers) -> float:
    """Returns `value` from answers, for every metric but `auc`."""
    assert metric is not Metric.auc, "it needs all probabilities"
    losses = image_losses(metric, answers)
    if losses is not None:
        mean = float(losses.mean())
        return mean if metric in (Metric.log_loss, Metric.brier) else 1 - mean
    if metric is Metric.qwk:
        return _quadratic_kappa(answers)
    counts = (answers.labels, answers.guess, answers.labels[answers.rank == 0])
    num, guessed, right = (np.bincount(each, minlength=answers.num_classes) for each in counts)
    if metric is Metric.macro_f1:
        seen = num + guessed > 0
        return float(np.mean(2 * right[seen] / (num + guessed)[seen]))
    return float(np.mean(right[num > 0] / num[num > 0]))


def _quadratic_kappa(answers: Answers) -> float:
    """Returns Cohen's kappa with quadratic weights; NaN if all labels and guesses are of one class."""
    label, guess = answers.labels.astype(np.float64), answers.guess.astype(np.float64)
    expected = (label**2).sum() + (guess**2).sum() - 2 * label.sum() * guess.sum() / len(label)
    return float(1 - ((label - guess) ** 2).sum() / expected) if expected else float("nan")


def loss(metric: Metric, value: float) -> float:
    """Returns what is better if it is lower: the value itself of `log_loss` and `brier`, else 1 − value."""
    return value if metric in (Metric.log_loss, Metric.brier) else 1 - value


def image_losses(metric: Metric, answers: Answers) -> NDArray[np.float64] | None:
    """Returns each image's loss (rows,), whose mean is the loss of all; None if `metric` is no mean over images."""
    if metric not in IMAGE_METRICS:
        return None
    looked_at = {Metric.log_loss: answers.right, Metric.brier: answers.squares}.get(metric, answers.rank)
    return losses_from(metric, looked_at, answers.num_classes)


def losses_from(metric: Metric, looked_at: NDArray[Any], num_classes: int) -> NDArray[np.float64]:
    """Returns each image's loss from the one thing of `Answers` that a metric of `IMAGE_METRICS` looks at."""
    if metric is Metric.log_loss:
        losses: NDArray[np.float64] = -np.log(np.clip(looked_at, SMALLEST, 1.0))
        return losses
    if metric is Metric.brier:
        # Two classes count as one probability, as in Brier's binary score.
        return looked_at * (0.5 if num_classes == 2 else 1.0)
    return (looked_at >= (5 if metric is Metric.top5 else 1)).astype(np.float64)


def _auc(probabilities: Rows, labels: Labels) -> float:
    num_rows, num_classes = probabilities.shape
    columns, areas = probabilities[:].T, list[float]()
    for one in [1] if num_classes == 2 else range(num_classes):
        own = columns[one, labels == one]
        if 0 < (num_own := len(own)) < num_rows:
            # Mann and Whitney: the share of pairs in which the class's image comes first. Equal ones share their place.
            ordered = np.sort(columns[one])
            places = [np.searchsorted(ordered, own, side).mean() for side in ("left", "right")]
            areas.append(float((sum(places) - num_own) / 2 / (num_rows - num_own)))
    return float(np.mean(areas)) if areas else float("nan")
