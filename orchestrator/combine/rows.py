"""Rows of class probabilities, read a block at a time: what `combine`, `score` and `submission` agree on.

Ties are broken the same way everywhere: of two equally probable classes the one with the lower index comes first.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

# Two megabytes of float32: what is made of a block is still in the cache when it is used.
BLOCK_ELEMENTS = 2**19
# Logarithms stop here: a confident mistake costs 28 nats, not infinity.
SMALLEST_PROBABILITY = 1e-12

Block = NDArray[np.float32]
Labels = NDArray[np.int64]


class Rows(Protocol):
    """Probabilities (num_rows, num_classes) of which slices can be taken; a numpy array is one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


@runtime_checkable
class StoredRows(Rows, Protocol):
    """Rows that can be read into memory that the caller keeps: fresh pages cost more than filling them."""

    def read_into(self, start: int, block: Block) -> None:
        """Fills `block` (C-contiguous) with the rows from `start` on."""


@runtime_checkable
class FileRows(StoredRows, Protocol):
    """Stored rows that lie one after another in a file, as little-endian float32."""

    @property
    def uniform(self) -> Sequence[int]:
        """The rows that are uniform, whatever the file has there."""

    def stored_at(self, row: int) -> tuple[int, int]:
        """The open file's descriptor, and the byte at which `row` begins."""


def blocks(num_rows: int, num_classes: int) -> Iterator[slice]:
    """Yields slices that cover the rows in order, each of `BLOCK_ELEMENTS` probabilities at most, one row at least."""
    step = max(1, BLOCK_ELEMENTS // max(1, num_classes))
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def gather(probabilities: Rows, order: NDArray[np.int64]) -> Block:
    """The rows `order` (any order), as one array; neighbours are read at once."""
    runs = np.split(order, np.flatnonzero(np.diff(order) != 1) + 1)
    return np.concatenate([probabilities[int(run[0]) : int(run[-1]) + 1] for run in runs])


def top_classes(block: NDArray[Any], k: int) -> NDArray[np.int64]:
    """The `k` most probable classes of each row, best first: (rows, min(k, classes)).

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
    """How many classes come before the right one in each row: 0 for a right top-1, below 5 for a right top-5."""
    own = block[np.arange(len(block)), labels][:, None]
    lower_index = np.arange(block.shape[1])[None, :] < labels[:, None]
    ahead = (block > own) | ((block == own) & lower_index)
    place: NDArray[np.int64] = ahead.sum(axis=1, dtype=np.int64)
    return place


MAX_THREADS = 8


def num_threads() -> int:
    """As many as this process may use cores, up to `MAX_THREADS`: memory is full before that many are busy."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, MAX_THREADS)


@contextmanager
def read_ahead(rows: Rows) -> Iterator[Rows]:
    """Yields `rows` such that slices taken one after another are made ahead; others are made when they are taken.

    Slices of `rows` are taken in several threads at once. An error comes when the slice that it belongs to is taken.
    """
    ahead = num_threads()
    with ThreadPoolExecutor(ahead, thread_name_prefix="read-ahead") as threads:
        try:
            yield _ReadAhead(rows, threads, ahead)
        finally:
            threads.shutdown(cancel_futures=True)


class _ReadAhead:
    def __init__(self, rows: Rows, threads: Executor, ahead: int) -> None:
        self._rows = rows
        self._threads = threads
        self._ahead = ahead
        self._started: dict[tuple[int, int], Future[Block]] = {}
        self._last_stop = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self._rows.shape

    def __getitem__(self, part: slice, /) -> Block:
        start, stop, step = part.indices(self.shape[0])
        assert step == 1, "a contiguous slice"
        in_turn = start in (0, self._last_stop)
        self._last_stop = stop
        started = self._started.pop((start, stop), None)
        if started is None or not in_turn:
            self._forget()
        if in_turn and stop > start:
            self._start_after(start, stop)
        block: Block = self._rows[start:stop] if started is None else started.result()
        return block

    def _start_after(self, start: int, stop: int) -> None:
        size, num_rows = stop - start, self.shape[0]
        for first in range(stop, min(stop + self._ahead * size, num_rows), size):
            bounds = (first, min(first + size, num_rows))
            if bounds not in self._started:
                self._started[bounds] = self._threads.submit(self._rows.__getitem__, slice(*bounds))

    def _forget(self) -> None:
        for future in self._started.values():
            future.cancel()
        self._started.clear()
