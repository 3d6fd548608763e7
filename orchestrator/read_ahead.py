"""Rows whose next blocks are made in threads while the last one is used.

Reading files, hashing and the kernels let other threads run, so blocks are made on several cores at once. At most as
many are ahead as there are threads: memory does not grow with the number of rows.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager

from orchestrator.probabilities import Block, Rows

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
