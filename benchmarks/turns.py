"""Runs contestants in turns, each in a process of its own, so that neither's settings or memory affect the other.

A machine that is busy or slows down affects all of them alike: in every round each contestant has one turn, and the
order is reversed from round to round.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path


class Turns:
    """A contestant's side: it prepares and warms up, then calls `next` before each piece of work."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def next(self, reading: float) -> None:
        """Reports the last turn's reading (the first time: anything) and waits; after the last turn it exits."""
        self._connection.send(reading)
        if not self._connection.recv():
            sys.exit()

    def play(
        self,
        work: Callable[[], object],
        clock: Callable[[], float] = time.perf_counter,
        undo: Callable[[], object] = lambda: None,
    ) -> None:
        """Reports the seconds of `work` by `clock` for each turn, after one warm-up; `undo` is not timed."""
        undo()
        work()
        seconds = 0.0
        while True:
            self.next(seconds)
            undo()
            since = clock()
            work()
            seconds = clock() - since


# It is called in another process, so it must be picklable: a module's function or a partial of one.
Contestant = Callable[[Turns], None]


def _perform(contestant: Contestant, connection: Connection) -> None:
    contestant(Turns(connection))


def take_turns(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, list[float]]:
    """Returns the readings of each contestant, one per round.

    Contestants are started one after another, each after the one before has warmed up.

    Raises:
        EOFError: a contestant died; its traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    processes, connections = [], {}
    try:
        for name, contestant in contestants.items():
            here, there = context.Pipe()
            process = context.Process(target=_perform, args=(contestant, there), daemon=True)
            process.start()
            processes.append(process)
            there.close()
            here.recv()
            connections[name] = here
        readings: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(rounds):
            for name in list(contestants)[:: 1 if number % 2 == 0 else -1]:
                connections[name].send(True)
                readings[name].append(connections[name].recv())
        return readings
    finally:
        for process in processes:
            process.kill()
            process.join()


def peak_mb() -> float:
    """Returns this process's peak resident memory, imports included; getrusage would keep its parent's across exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:"))


def ratios(readings: Mapping[str, list[float]], over: str, under: str) -> list[float]:
    """Returns `over` divided by `under` for each round."""
    return [one / other for one, other in zip(readings[over], readings[under], strict=True)]
