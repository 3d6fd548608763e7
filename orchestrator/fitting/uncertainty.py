"""Computes how sure an ensemble is of each image, and on what its members disagree. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine import SMALLEST_PROBABILITY, Block, Combination

_PLACES = 6


@dataclass(frozen=True)
class Uncertainty:
    """What is told of one image: two numbers in nats, and the classes of its prediction set, the most probable first.

    `entropy` is of the ensemble's probabilities. `mutual_information` is the entropy of the members' mean minus the
    mean of their entropies: on what they disagree. `classes` is None without prediction sets.
    """

    entropy: float
    mutual_information: float
    classes: tuple[int, ...] | None


def uncertainties(combination: Combination, block: Block, members: Sequence[NDArray[Any]]) -> tuple[Uncertainty, ...]:
    """Returns the uncertainty of each row of `block`, which is what `combination` makes of `members`' rows.

    Members count by their weights (those of `stacked`, which are no shares, equally). Numbers are rounded to 1e-6.
    """
    weights = np.array(combination.weights) if combination.stacking is None else np.full(len(members), 1 / len(members))
    mean, inside = np.zeros(block.shape), np.zeros(len(block))
    for member, weight in zip(members, weights, strict=True):
        mean += weight * member.astype(np.float64)
        inside += weight * _entropy(member)
    numbers = [np.round(each, _PLACES).tolist() for each in (_entropy(block), np.maximum(0.0, _entropy(mean) - inside))]
    sets: list[tuple[int, ...] | None] = [None] * len(block)
    if combination.sets is not None:
        order = np.argsort(-block, axis=1, kind="stable")
        sets = [tuple(row[:size].tolist()) for row, size in zip(order, combination.sets.sizes(block), strict=True)]
    return tuple(map(Uncertainty, *numbers, sets))


def _entropy(block: NDArray[Any]) -> NDArray[np.float64]:
    found = np.maximum(block, SMALLEST_PROBABILITY, dtype=np.float64)
    entropy: NDArray[np.float64] = -(found * np.log(found)).sum(axis=1)
    return entropy
