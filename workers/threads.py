"""A thread pool that keeps order and holds few results at a time."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_WINDOW_PER_THREAD = 8


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int | None = None
) -> Iterator[Result]:
    """Yields function(item) in the order of `items`, with at most 8 results per thread in memory.

    `num_threads` None means one for each core. More help where threads wait for a network. If the caller stops before
    the end, calls that have begun end by themselves.
    """
    num_threads = num_threads or len(os.sched_getaffinity(0))
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="prepare")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= num_threads * _WINDOW_PER_THREAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Never waits: an error's traceback may keep this generator until the garbage collector closes it, in any
        # thread. A thread that is just starting holds the lock that waiting for another one needs: both would hang.
        pool.shutdown(wait=False, cancel_futures=True)
