"""Gathers what several requests ask into batches, which one thread answers in turn."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

# How long an idle thread waits for more, in seconds: clients whose batch has just ended ask again in this time.
_WINDOW_S = 0.002
# As many as go through a net at once.
_MOST_IMAGES = 32


class Asked(NamedTuple):
    """The images of one request, each [height, width, 3] uint8, their names, and how many classes are wanted."""

    images: Sequence[np.ndarray]
    names: Sequence[str]
    top: int
    answer: "asyncio.Future[list[dict[str, Any]]]"


class Batches:
    """Answers requests in order. A batch begins when the last one has ended, so more requests make larger batches."""

    def __init__(self, answer: Callable[[Sequence[Asked]], list[list[dict[str, Any]]]]) -> None:
        self._answer, self._thread = answer, ThreadPoolExecutor(1, "septet-predict")
        self._waiting, self._busy = deque[Asked](), False

    async def ask(self, images: Sequence[np.ndarray], names: Sequence[str], top: int) -> list[dict[str, Any]]:
        """Returns a document for each image; raises what its batch raised."""
        loop = asyncio.get_running_loop()
        self._waiting.append(asked := Asked(images, names, top, loop.create_future()))
        if not self._busy:
            self._busy = True
            loop.call_later(_WINDOW_S, self._begin)
        return await asked.answer

    def _begin(self) -> None:
        batch, room = list[Asked](), _MOST_IMAGES
        while self._waiting and (not batch or len(self._waiting[0].images) <= room):
            batch.append(self._waiting.popleft())
            room -= len(batch[-1].images)
        self._busy = bool(batch)
        if batch:
            job = asyncio.get_running_loop().run_in_executor(self._thread, self._answer, batch)
            job.add_done_callback(lambda done: self._end(batch, done))

    def _end(self, batch: Sequence[Asked], done: "asyncio.Future[list[list[dict[str, Any]]]]") -> None:
        error = done.exception()
        for place, asked in enumerate(batch):
            # One that was cancelled is done.
            if not asked.answer.done():
                asked.answer.set_exception(error) if error else asked.answer.set_result(done.result()[place])
        self._begin()
