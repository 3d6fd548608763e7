"""Combines members' probabilities: mean, weighted mean, geometric mean. Pure.

Sums are made in float64, in the order given, and rounded to float32 once. The order of the members can therefore change
a probability by one float32 rounding at most, which is rare. Callers that need the same bytes for any order sort the
members by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine.rows import SMALLEST_PROBABILITY, Block, Rows, blocks
from orchestrator.config import CombineMethod

# One member's float32 and two float64 arrays of this many elements stay in the cache: 1.25 MiB.
PART_ELEMENTS = 2**16


@dataclass(frozen=True)
class Combination:
    """A method and each member's weight (weights sum to 1).

    `searched_on` is the split on which weights were searched; `note` says why it was not the usual one.
    """

    method: CombineMethod
    weights: tuple[float, ...]
    searched_on: str | None = None
    note: str | None = None


def equal(method: CombineMethod, num_members: int) -> Combination:
    """Returns the combination with equal weights."""
    return Combination(method, (1 / num_members,) * num_members)


@dataclass(frozen=True)
class Combined:
    """The combined probabilities of `members`. Each slice is computed when taken; memory is that of the slice."""

    members: Sequence[Rows]
    combination: Combination

    def __post_init__(self) -> None:
        assert self.members, "nothing to combine"
        assert len(self.members) == len(self.combination.weights), "one weight a member"
        assert len({member.shape for member in self.members}) == 1, "members of one shape"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.members[0].shape

    def __getitem__(self, rows: slice, /) -> Block:
        """Returns rows `start:stop` (step 1) as a new float32 array (rows, classes)."""
        start, stop, step = rows.indices(self.shape[0])
        assert step == 1, "a contiguous slice"
        output = np.empty((max(0, stop - start), self.shape[1]), np.float32)
        for part in blocks(*output.shape, PART_ELEMENTS):
            output[part] = self._combine(slice(start + part.start, start + part.stop))
        return output

    def _combine(self, rows: slice) -> NDArray[np.float64]:
        geometric = self.combination.method is CombineMethod.geometric
        total = np.zeros((rows.stop - rows.start, self.shape[1]))
        term = np.empty_like(total)
        for member, weight in zip(self.members, self.combination.weights, strict=True):
            # A member of weight 0 need not be read.
            if not weight:
                continue
            # Converted first: NumPy multiplies a float32 array into a float64 one a quarter more slowly.
            term[...] = member[rows]
            if geometric:
                # Without the floor a single exact zero would veto a class.
                np.maximum(term, SMALLEST_PROBABILITY, out=term)
                np.log(term, out=term)
            term *= weight
            total += term
        if geometric:
            total -= total.max(axis=1, keepdims=True)
            np.exp(total, out=total)
            total /= total.sum(axis=1, keepdims=True)
        return total


def mean(members: Sequence[Rows]) -> Combined:
    """Returns the plain average of `members`, as in the paper."""
    return Combined(members, equal(CombineMethod.mean, len(members)))
