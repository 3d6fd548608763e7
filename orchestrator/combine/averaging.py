"""Combines members' probabilities: mean, weighted mean, geometric mean. Pure: values in, values out.

Sums are made in float64, in the order given, and rounded to float32 once. The order of the members can therefore
move a probability by one float32 rounding at most, and hardly ever does; callers that need the same bytes for any
order give the members in a fixed one (`aggregate` sorts by name).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine.rows import SMALLEST_PROBABILITY, Block, Rows, blocks
from orchestrator.config import CombineMethod

# One member's float32 and two float64 arrays of this many stay in the cache from reading to adding: 1.25 MiB.
PART_ELEMENTS = 2**16


@dataclass(frozen=True)
class Combination:
    """A method and each member's share (shares sum to 1).

    `searched_on` names the split that weights were looked for on, `note` says why it was not the usual one.
    """

    method: CombineMethod
    weights: tuple[float, ...]
    searched_on: str | None = None
    note: str | None = None


def equal(method: CombineMethod, num_members: int) -> Combination:
    """The combination in which every member counts the same."""
    return Combination(method, (1 / num_members,) * num_members)


@dataclass(frozen=True)
class Combined:
    """The combined probabilities of `members`, computed when a slice is taken; memory is that of the slice."""

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
        """Rows `start:stop` (step 1) as a fresh float32 array."""
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
            # A member of weight 0 is still a member, but need not be read.
            if not weight:
                continue
            # Converted first: NumPy multiplies a float32 array into a float64 one a quarter more slowly.
            term[...] = member[rows]
            if geometric:
                # Without the floor one member's exact zero would veto a class, and two such members all of them.
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
    """The plain average of `members`, as the paper submits it."""
    return Combined(members, equal(CombineMethod.mean, len(members)))
