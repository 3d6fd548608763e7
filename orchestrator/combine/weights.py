"""Searches the weights of a weighted mean, as the winner's released code did. Pure.

Coordinate descent over {0, .05, …, 1}, at most five passes, on top-5 error (top-1 for ten classes or fewer, where
top-5 says little). A weight changes only if the error becomes strictly lower, so the plain mean wins a tie.

Weights are non-negative, so a class can pass the right one only if some member prefers it. Only these classes'
differences to the right class's probability are kept: a few values a row, and each trial is a small matrix product. If
members are so weak that even these are too many, rows are thinned evenly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine.rows import Labels, Rows, blocks

STEPS = 20
MAX_PASSES = 5
MAX_DIFFERENCES = 2**24
FEW_CLASSES = 10


@dataclass(frozen=True)
class Rivals:
    """The classes that could pass the right one, over all rows.

    `differences` (members, rivals) float32: each member's probability of the rival minus that of the right class.
    `row` (rivals,) is the rival's row; `wins_ties` (rivals,) is true if its index is lower than the right class's.
    """

    differences: NDArray[np.float32]
    row: NDArray[np.int64]
    wins_ties: NDArray[np.bool_]
    num_rows: int


def find_weights(members: Sequence[Rows], labels: Labels) -> tuple[float, ...]:
    """Returns weights that sum to 1, one a member, by coordinate descent on rows with the right classes `labels`."""
    num_classes = members[0].shape[1]
    k = 1 if num_classes <= FEW_CLASSES else 5
    rivals = find_rivals(members, labels)
    # Whole twentieths, so that 1/20 + 2/20 is exactly 3/20.
    twentieths = np.full(len(members), STEPS)
    best = num_errors(rivals, twentieths, k)
    for _ in range(MAX_PASSES):
        before = best
        for member in range(len(members)):
            for trial in range(STEPS + 1):
                tried = twentieths.copy()
                tried[member] = trial
                if tried.any() and (errors := num_errors(rivals, tried, k)) < best:
                    best, twentieths = errors, tried
        if best == before:
            break
    return tuple(float(weight) for weight in twentieths / twentieths.sum())


def num_errors(rivals: Rivals, weights: NDArray[np.int64], k: int) -> int:
    """Returns the number of rows whose right class is not among the `k` best under `weights` (members,)."""
    lead = weights.astype(np.float32) @ rivals.differences
    ahead = (lead > 0) | ((lead == 0) & rivals.wins_ties)
    return int((np.bincount(rivals.row[ahead], minlength=rivals.num_rows) >= k).sum())


def find_rivals(members: Sequence[Rows], labels: Labels, max_differences: int = MAX_DIFFERENCES) -> Rivals:
    """Reads `members` once and keeps at most about `max_differences` values, of evenly spaced rows."""
    found: list[Rivals] = []
    stride = 1
    for part in _rivals_by_block(members, labels):
        found.append(_thinned(part, stride))
        while sum(kept.differences.size for kept in found) > max_differences and stride < len(labels):
            stride *= 2
            found = [_thinned(kept, stride) for kept in found]
    return Rivals(
        np.concatenate([part.differences for part in found], axis=1),
        np.concatenate([part.row for part in found]),
        np.concatenate([part.wins_ties for part in found]),
        len(labels),
    )


def _rivals_by_block(members: Sequence[Rows], labels: Labels) -> Iterator[Rivals]:
    num_rows, num_classes = members[0].shape
    for rows in blocks(num_rows, num_classes * len(members)):
        own = labels[rows]
        block = np.stack([member[rows] for member in members])
        differences = block - np.take_along_axis(block, own[None, :, None], axis=2)
        preferred = (differences >= 0).any(axis=0)
        preferred[np.arange(len(own)), own] = False
        row, rival = np.nonzero(preferred)
        yield Rivals(differences[:, row, rival], row + rows.start, rival < own[row], num_rows)


def _thinned(rivals: Rivals, stride: int) -> Rivals:
    kept = rivals.row % stride == 0
    if kept.all():
        return rivals
    return Rivals(rivals.differences[:, kept], rivals.row[kept], rivals.wins_ties[kept], rivals.num_rows)
