"""Packs shards in threads of this process: Pillow, hashlib and file writes release the interpreter lock.

Processes were no faster, and would outlive a kill of the one that started them.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue

from workers.data.shards import PackedShard, ShardJob, pack_shard
from workers.data.sources.listing import Loader

# Waking the thread that watches for each image would take the interpreter lock from those that decode.
_TELL_EVERY_S = 0.1


class _Abandoned(Exception):
    """Nobody waits for this shard any more."""


class PackingThreads:
    """A `ShardRunner`: a thread a core and one more, for while one has its shard committed; each at a shard of its own.

    In memory are, for each thread, the image that it decodes and, as JPEG, the encoded images of one shard.
    """

    def run(self, loader: Loader, jobs: Iterator[ShardJob], packed: Callable[[int], None]) -> Iterator[PackedShard]:
        num_threads = len(os.sched_getaffinity(0)) + 1
        finished: SimpleQueue[Future[PackedShard]] = SimpleQueue()
        counting = threading.Lock()
        untold = 0
        stop = threading.Event()

        def image_done() -> None:
            nonlocal untold
            if stop.is_set():
                raise _Abandoned
            with counting:
                untold += 1

        def tell() -> None:
            """Tells whoever watches, in his own thread."""
            nonlocal untold
            with counting:
                num_images, untold = untold, 0
            if num_images:
                packed(num_images)

        with ThreadPoolExecutor(num_threads, thread_name_prefix="pack") as pool:
            num_waiting = 0

            def start_next() -> int:
                job = next(jobs, None)
                if job is None:
                    return 0
                pool.submit(pack_shard, loader, job, image_done).add_done_callback(finished.put)
                return 1

            try:
                num_waiting = sum(start_next() for _ in range(num_threads))
                while num_waiting:
                    try:
                        done = finished.get(timeout=_TELL_EVERY_S)
                    except Empty:
                        tell()
                        continue
                    shard = done.result()
                    tell()
                    num_waiting += start_next() - 1
                    yield shard
            finally:
                stop.set()
