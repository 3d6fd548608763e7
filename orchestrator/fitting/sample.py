"""Keeps of members' predictions what a fit needs, in bounded memory. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine import OF_LOGS, Combination, Labels, Rows, blocks, combine_block, gather
from orchestrator.config import Metric
from orchestrator.fitting.metrics import Answers, loss, read_answers, value, value_of

# 256 MB of float32.
MAX_ELEMENTS = 2**26
# The most probable ones by the plain mean, and the right one; the others can hardly become a guess.
KEPT_CLASSES = 64


@dataclass(frozen=True)
class Sample:
    """Evenly spaced rows of several sets of probabilities, with the classes that matter in each row.

    `probabilities` is (members, rows, kept) float32; `classes` (rows, kept) are the kept classes, ascending; `right`
    (rows,) is the right one's place among them; `labels` (rows,) is its index. All classes are kept up to 64. `rows`
    are the rows' indexes in `members`, which was sampled.
    """

    probabilities: NDArray[np.float32]
    classes: NDArray[np.int64]
    right: NDArray[np.int64]
    labels: Labels
    num_classes: int
    rows: NDArray[np.int64]
    members: Sequence[Rows]

    @property
    def num_rows(self) -> int:
        return len(self.labels)

    def at(self, rows: NDArray[np.int64]) -> "Sample":
        """Returns the sample of `rows`, which may repeat."""
        kept = (self.probabilities[:, rows], self.classes[rows], self.right[rows], self.labels[rows])
        return Sample(*kept, self.num_classes, self.rows[rows], self.members)

    def combined(self, combination: Combination) -> "Scored":
        """Returns the rows combined."""
        if combination.method in OF_LOGS and self.classes.shape[1] < self.num_classes:
            # Normalised over all classes: over the kept ones, probabilities would be too high.
            parts = []
            for some in blocks(self.num_rows, self.num_classes * len(self.members)):
                read = [gather(member, self.rows[some]) for member in self.members]
                parts.append(combine_block(combination, combination.used(read)))
                parts[-1] = np.take_along_axis(parts[-1], self.classes[some], axis=1)
            return Scored(self, np.concatenate(parts))
        return Scored(self, combine_block(combination, combination.used(list(self.probabilities)), self.classes))


@dataclass(frozen=True)
class Scored:
    """Combined probabilities (rows, kept) of a sample, to be scored."""

    sample: Sample
    combined: NDArray[np.float64]

    @cached_property
    def answers(self) -> Answers:
        sample, kept = self.sample, read_answers(self.combined, self.sample.right)
        guess = sample.classes[np.arange(sample.num_rows), kept.guess]
        return replace(kept, labels=sample.labels, guess=guess, num_classes=sample.num_classes)

    def loss(self, metric: Metric) -> float:
        """Returns the loss by `metric`; infinity where it is undefined."""
        if metric is Metric.auc:
            found = value(metric, self._all_classes(), self.sample.labels)
        else:
            found = value_of(metric, self.answers)
        return float("inf") if np.isnan(found) else loss(metric, found)

    def at(self, rows: NDArray[np.int64]) -> "Scored":
        return Scored(self.sample.at(rows), self.combined[rows])

    def _all_classes(self) -> NDArray[np.float64]:
        whole = np.zeros((self.sample.num_rows, self.sample.num_classes))
        np.put_along_axis(whole, self.sample.classes, self.combined, axis=1)
        return whole


def draw_sample(members: Sequence[Rows], labels: Labels, max_elements: int = MAX_ELEMENTS) -> Sample:
    """Reads `members` (each rows × classes) once, in blocks, against `labels` (rows,)."""
    num_rows, num_classes = members[0].shape
    kept = min(num_classes, KEPT_CLASSES)
    stride = -(-num_rows * kept * len(members) // max_elements)
    rows = np.arange(0, num_rows, stride)
    labels = labels[rows]
    parts = [
        _part(np.stack([gather(member, rows[some]) for member in members]), labels[some], kept)
        for some in blocks(len(rows), num_classes * len(members))
    ]
    probabilities, classes, right = zip(*parts, strict=True)
    sampled = (np.concatenate(probabilities, axis=1), np.concatenate(classes), np.concatenate(right))
    return Sample(*sampled, labels, num_classes, rows, members)


def _part(
    block: NDArray[np.float32], own: Labels, kept: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Returns the `kept` classes of `block` (members, rows, classes), which they are, and the right one's place."""
    if kept == block.shape[2]:
        return block, np.broadcast_to(np.arange(kept), (len(own), kept)), own
    total = block.sum(axis=0)
    # The right class is kept in any case.
    np.put_along_axis(total, own[:, None], np.inf, axis=1)
    classes = np.sort(np.argpartition(-total, kept, axis=1)[:, :kept], axis=1)
    right = (classes < own[:, None]).sum(axis=1)
    return np.take_along_axis(block, classes[None], axis=2), classes, right
