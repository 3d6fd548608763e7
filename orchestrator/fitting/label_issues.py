"""Finds labels that are probably wrong by confident learning (Northcutt, Jiang and Chuang 2021), in two readings. Pure.

A class's threshold is the mean probability that images labelled so have of it. Of the classes whose threshold an image
reaches, it is surely of the most probable one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine import Labels, Rows, blocks

# The mean of equal numbers may be above them by rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class LabelIssues:
    """The images whose label may be wrong, the likeliest first.

    Attributes:
        rows: [issues] int64, indices of images.
        labels, suggestions: [issues] int64, the class that is given, and the one that the image surely is of.
        label_probabilities, suggestion_probabilities: [issues] float32, of these two classes.
        num_images: all that were looked at.
        num_wrong: so many labels are wrong by the confident joint, an estimate.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    suggestions: NDArray[np.int64]
    label_probabilities: NDArray[np.float32]
    suggestion_probabilities: NDArray[np.float32]
    num_images: int
    num_wrong: int

    def line(self) -> str:
        return f"{len(self.rows):,} of {self.num_images:,} labels may be wrong"

    def estimate(self) -> str:
        share = f"{100 * self.num_wrong / self.num_images:.1f} %"
        counts = f"{self.num_wrong:,} of the {self.num_images:,} labels are wrong ({share})"
        return f"By confident learning about {counts}; mistakes of weak members count too."


def find_label_issues(probabilities: Rows, labels: Labels) -> LabelIssues:
    """Compares `labels` (rows,) with `probabilities` (rows × classes) by members that did not train on them.

    An image is an issue if it is surely of another class than its label, and its label is not its most probable class.
    Issues are ordered by the label's probability minus the largest other one, then by row.
    """
    num_images, num_classes = probabilities.shape
    thresholds = _thresholds(probabilities, labels)
    num_sure, num_apart = np.zeros(num_classes), np.zeros(num_classes)
    parts = []
    for rows in blocks(num_images, num_classes):
        block, own = probabilities[rows], labels[rows]
        reached = np.where(block >= thresholds - _ROUNDING, block, -1.0)
        suggested, is_sure = reached.argmax(axis=1), reached.max(axis=1) >= 0
        is_apart = is_sure & (suggested != own)
        num_sure += np.bincount(own[is_sure], minlength=num_classes)
        num_apart += np.bincount(own[is_apart], minlength=num_classes)
        found = np.flatnonzero(is_apart & (block.argmax(axis=1) != own))
        given, other = own[found], suggested[found]
        # A label is not the most probable class, so the largest of all probabilities is the largest other.
        part = (block[found, given], block[found, other], block[found].max(axis=1))
        parts.append((found + rows.start, given, other, *part))
    places, given, other, own_share, other_share, largest = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((places, own_share - largest))
    counts = np.bincount(labels, minlength=num_classes)
    num_wrong = round(float((counts * num_apart / np.maximum(num_sure, 1)).sum()))
    classes, shares = (given[order], other[order]), (own_share[order], other_share[order])
    return LabelIssues(places[order], *classes, *shares, num_images, num_wrong)


def _thresholds(probabilities: Rows, labels: Labels) -> NDArray[np.float64]:
    """Returns each class's threshold, (classes,); infinity where no image has the label."""
    num_images, num_classes = probabilities.shape
    sums, counts = np.zeros(num_classes), np.bincount(labels, minlength=num_classes)
    for rows in blocks(num_images, num_classes):
        own = labels[rows]
        sums += np.bincount(own, probabilities[rows][np.arange(len(own)), own], num_classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
