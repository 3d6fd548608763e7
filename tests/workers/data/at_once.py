"""Runs a function in several processes at once, which wait for each other and report."""

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any


def at_once(
    target: Callable[..., None],
    arguments: Sequence[tuple[Any, ...]],
    num_reports: int | None = None,
    fork: bool = False,
) -> list[Any]:
    """Calls `target(*each, barrier, queue)` in a process for each of `arguments`, and returns what they put."""
    context = multiprocessing.get_context("forkserver" if fork else "spawn")
    if fork:
        context.set_forkserver_preload(["workers.data.loading.batches"])
    barrier, queue = context.Barrier(len(arguments)), context.Queue()
    processes = [context.Process(target=target, args=(*each, barrier, queue), daemon=True) for each in arguments]
    for process in processes:
        process.start()
    reports = [queue.get(timeout=240) for _ in range(num_reports or len(processes))]
    for process in processes:
        process.join(60)
    return reports
