"""Combines members' probabilities: means, ranks, or a logistic regression on log-probabilities. Pure.

Sums are made in float64, in the order given, and rounded to float32 once. The order of the members can therefore change
a probability by one float32 rounding at most, which is rare. Callers that need the same bytes for any order or names
sort the members by their predictions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine.calibration import Calibration, PredictionSets, corrected
from orchestrator.combine.fit import Fit
from orchestrator.combine.rows import SMALLEST_PROBABILITY, Block, Rows, blocks
from orchestrator.config import FITTED, CombineMethod

# One member's float32 and two float64 arrays of this many elements stay in the cache: 1.25 MiB.
PART_ELEMENTS = 2**16
# Their members' logarithms are summed.
OF_LOGS = (CombineMethod.geometric, CombineMethod.stacked)


@dataclass(frozen=True)
class Stacking:
    """A logistic regression on members' log-probabilities.

    `coefficients` has a number a member, or (member, class, class): what the log-probability of the last class adds to
    the score of the one before. `constants` (classes,) are added to the scores.
    """

    coefficients: tuple[Any, ...]
    constants: tuple[float, ...]

    @cached_property
    def factors(self) -> NDArray[np.float64]:
        return np.array(self.coefficients, np.float64)

    @cached_property
    def offsets(self) -> NDArray[np.float64]:
        return np.array(self.constants, np.float64)


@dataclass(frozen=True)
class Combination:
    """A method and each member's weight (weights sum to 1, except those of `stacked`, its members' coefficients).

    `given` are the weights by member that a person gave; `fit` says how it was fitted, and `note` is a line about that.
    `calibration` corrects what was combined; `sets` says how prediction sets are made of the result.
    """

    method: CombineMethod
    weights: tuple[float, ...]
    stacking: Stacking | None = None
    fit: Fit | None = None
    given: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None
    calibration: Calibration | None = None
    sets: PredictionSets | None = None

    @property
    def uncalibrated(self) -> "Combination":
        """The same without calibration, which comes last."""
        return replace(self, calibration=None)

    def used(self, members: Sequence[Any]) -> list[Any]:
        """Returns those of `members`, or of what belongs to them, that count: one of weight 0 need not be read."""
        given = zip(members, self.weights, strict=True)
        return [member for member, weight in given if weight or self.stacking]

    def among(self, members: Sequence[int]) -> "Combination | None":
        """Returns the mean of some members alone; None if it would be another fit, or all have weight 0."""
        total = sum(self.weights[member] for member in members)
        if self.method in FITTED or not total:
            return None
        return replace(self, weights=tuple(self.weights[member] / total for member in members))

    def only(self, member: int) -> "Combination":
        """Returns the part of one member."""
        stacking = self.stacking and replace(self.stacking, coefficients=(self.stacking.coefficients[member],))
        return replace(self, weights=(self.weights[member],), stacking=stacking)


def equal(method: CombineMethod, num_members: int) -> Combination:
    """Returns the combination with equal weights."""
    return Combination(method, (1 / num_members,) * num_members)


def combine_block(
    combination: Combination, members: Iterable[NDArray[Any]], classes: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Returns some rows of all `members` (each rows × classes) combined; `members` are the used ones.

    `classes` (rows, kept) are the classes of the columns, if they are not all.
    """
    total = sum_members(combination, members)
    if (stacking := combination.stacking) is not None:
        total += stacking.offsets if classes is None else stacking.offsets[classes]
    if combination.method in OF_LOGS:
        total -= total.max(axis=1, keepdims=True)
        np.exp(total, out=total)
        total /= total.sum(axis=1, keepdims=True)
    return total


def sum_members(combination: Combination, members: Iterable[NDArray[Any]]) -> NDArray[np.float64]:
    """Returns the sum of what members give to each class, as `combine_block`; of logarithms for `OF_LOGS`."""
    method, stacking = combination.method, combination.stacking
    factors = list(stacking.factors) if stacking else combination.weights
    if stacking is None:
        factors = [weight for weight in factors if weight]
    total, term = np.zeros(0), np.empty(0)
    for member, factor in zip(members, factors, strict=True):
        if not total.size:
            total, term = np.zeros(member.shape), np.empty(member.shape)
        # Converted first: NumPy multiplies a float32 array into a float64 one a quarter more slowly.
        term[...] = _places(member) if method is CombineMethod.rank else member
        if method in OF_LOGS:
            # Without the floor a single exact zero would veto a class.
            np.maximum(term, SMALLEST_PROBABILITY, out=term)
            np.log(term, out=term)
        if np.ndim(factor) == 2:
            total += term @ factor.T
        else:
            term *= factor
            total += term
    return total


def _places(block: NDArray[Any]) -> NDArray[np.float64]:
    """Returns Borda's points of each class: most for the most probable one, 1 for the last, divided by their sum."""
    num_classes = block.shape[1]
    points = np.empty(block.shape)
    order = np.argsort(-block, axis=1, kind="stable")
    np.put_along_axis(points, order, np.arange(num_classes, 0, -1.0)[None], axis=1)
    points /= num_classes * (num_classes + 1) / 2
    return points


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
            used = self.combination.used(self.members)
            read = (member[start + part.start : start + part.stop] for member in used)
            output[part] = combine_block(self.combination, read)
            if (calibration := self.combination.calibration) is not None and calibration.is_taken:
                output[part] = corrected(calibration.asked, calibration.numbers, output[part])
        return output


def mean(members: Sequence[Rows]) -> Combined:
    """Returns the plain average of `members`, as in the paper."""
    return Combined(members, equal(CombineMethod.mean, len(members)))
