"""Reads and ranks rows of class probabilities in blocks, for `combine`, `report` and `submission`.

Ties are broken the same way everywhere: of two equally probable classes the one with the lower index comes first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Two megabytes of float32: a block stays in the cache until it is used.
BLOCK_ELEMENTS = 2**19
# A floor for logarithms: a confident mistake costs 28 nats, not infinity.
SMALLEST_PROBABILITY = 1e-12

Block = NDArray[np.float32]
Labels = NDArray[np.int64]


class Rows(Protocol):
    """Probabilities (num_rows, num_classes) that can be sliced by rows, such as a numpy array."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


@dataclass(frozen=True)
class ClassProbability:
    """A class by its name in classes.txt, and its probability in [0, 1]."""

    name: str
    probability: float


def blocks(num_rows: int, num_classes: int, max_elements: int = BLOCK_ELEMENTS) -> Iterator[slice]:
    """Yields slices that cover the rows in order, each of `max_elements` probabilities at most, one row at least."""
    step = max(1, max_elements // max(1, num_classes))
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def gather(probabilities: Rows, order: NDArray[np.int64]) -> Block:
    """Returns the rows `order` (any order) as one array; adjacent rows are read together."""
    runs = np.split(order, np.flatnonzero(np.diff(order) != 1) + 1)
    return np.concatenate([probabilities[int(run[0]) : int(run[-1]) + 1] for run in runs])


def top_classes(block: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Returns the `k` most probable classes of each row, best first: (rows, min(k, classes)).

    `argmax` returns the first of equal values, which is the tie rule above.
    """
    rest = np.array(block)
    rows = np.arange(len(rest))
    best = np.empty((len(rest), min(k, rest.shape[1])), dtype=np.int64)
    for place in range(best.shape[1]):
        best[:, place] = rest.argmax(axis=1)
        rest[rows, best[:, place]] = -np.inf
    return best


def ranks(block: NDArray[Any], labels: Labels) -> NDArray[np.int64]:
    """Returns how many classes come before the right one in each row: 0 if top-1 is right, below 5 if top-5 is."""
    own = block[np.arange(len(block)), labels][:, None]
    lower_index = np.arange(block.shape[1])[None, :] < labels[:, None]
    ahead = (block > own) | ((block == own) & lower_index)
    place: NDArray[np.int64] = ahead.sum(axis=1, dtype=np.int64)
    return place
