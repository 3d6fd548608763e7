"""Puts the out-of-fold predictions of a recipe's members together, so that they are one voter. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine.averaging import Combination
from orchestrator.combine.rows import Block, Rows


@dataclass(frozen=True)
class OutOfFold:
    """Probabilities of all `num_rows` training images by the members that did not see them; the mean over repeats.

    `members` have the rows of their own folds; `rows` are those rows' places among all images, ascending.
    """

    members: Sequence[Rows]
    rows: Sequence[NDArray[np.int64]]
    num_rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.num_rows, self.members[0].shape[1])

    def __getitem__(self, rows: slice, /) -> Block:
        """Returns rows `start:stop` (step 1) as a new float32 array (rows, classes)."""
        start, stop, _ = rows.indices(self.num_rows)
        total = np.zeros((max(0, stop - start), self.shape[1]))
        for member, own in zip(self.members, self.rows, strict=True):
            first, last = np.searchsorted(own, (start, start + len(total)))
            total[own[first:last] - start] += member[first:last]
        return (total / (sum(map(len, self.rows)) // self.num_rows)).astype(np.float32)


def regrouped(combination: Combination, shares: Sequence[Mapping[int, float]]) -> Combination:
    """Returns the combination of which each part is a sum of `combination`'s parts, by their places, times shares."""

    def summed(parts: Sequence[Any]) -> tuple[Any, ...]:
        sums = (sum(share * np.asarray(parts[place]) for place, share in own.items()) for own in shares)
        return tuple(np.asarray(one).tolist() for one in sums)

    stacking = combination.stacking
    stacking = stacking and replace(stacking, coefficients=summed(stacking.coefficients))
    return replace(combination, weights=summed(combination.weights), stacking=stacking)
