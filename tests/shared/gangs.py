"""Runs a stage by a gang of real processes over gloo, one for each rank, without Ray."""

import multiprocessing
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from workers.errors import SeptetError
from workers.protocol import Meeting, StageResult, StageSpec
from workers.training.stage import run_stage

LOOPBACK = "127.0.0.1"
# Forked from a process that has torch loaded and no thread of its own: a new interpreter would take seconds.
_FORKED = multiprocessing.get_context("fork")
_END_S = 60.0


def _worker(spec: StageSpec, should_stop: Callable[[], bool], before: Callable[[int], None], ends: Any) -> None:
    torch.set_num_threads(1)
    before(spec.rank)
    try:
        end: object = run_stage(spec, should_stop)
    except SeptetError as error:
        end = error
    ends.send(end)


def run_gang(
    spec: StageSpec,
    width: int,
    should_stop: Callable[[], bool] = lambda: False,
    before: Callable[[int], None] = lambda rank: None,
) -> list[StageResult | SeptetError | None]:
    """Returns how each rank ended: its result, its error, or None if its process was killed.

    `should_stop` is asked at rank 0, and `before` is called in each process.
    """
    with socket.create_server((LOOPBACK, 0)) as listener:
        processes, ends = [], []
        for rank in range(width):
            meeting = Meeting(*listener.getsockname(), LOOPBACK, listener.fileno() if rank == 0 else None)
            receiver, sender = _FORKED.Pipe(duplex=False)
            own = replace(spec, rank=rank, width=width, meeting=meeting if width > 1 else None)
            processes.append(_FORKED.Process(target=_worker, args=(own, should_stop, before, sender)))
            processes[-1].start()
            sender.close()
            ends.append(receiver)
    found: list[Any] = []
    for process, end in zip(processes, ends, strict=True):
        found.append(None)
        with suppress(EOFError):
            found[-1] = end.recv() if end.poll(_END_S) else None
        process.join(_END_S)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"rank {len(found) - 1} has not ended")
    return found
