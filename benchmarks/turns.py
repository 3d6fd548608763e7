"""Contestants that take turns: each lives in a process of its own, so that neither's settings or memory help the other.

A busy or slowing machine meets all alike: every round gives each contestant one turn, in an order that is reversed
from round to round.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection


class Turns:
    """A contestant's side. It prepares and warms up, then calls `next` before each piece of work."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def next(self, reading: float) -> None:
        """Hands over what the last turn measured (the first time: anything) and waits; ends the process at the end."""
        self._connection.send(reading)
        if not self._connection.recv():
            sys.exit()

    def play(
        self,
        work: Callable[[], object],
        clock: Callable[[], float] = time.perf_counter,
        undo: Callable[[], object] = lambda: None,
    ) -> None:
        """Gives the seconds of `work` by `clock`, turn by turn, after once to warm up; `undo`, before each, is free."""
        undo()
        work()
        seconds = 0.0
        while True:
            self.next(seconds)
            undo()
            since = clock()
            work()
            seconds = clock() - since


# Called in a process of its own, so it must be picklable: a module's function or a partial of one.
Contestant = Callable[[Turns], None]


def _perform(contestant: Contestant, connection: Connection) -> None:
    contestant(Turns(connection))


def take_turns(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, list[float]]:
    """The readings of each contestant, one a round.

    They are started one after another, each when the one before has warmed up.

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


def ratios(readings: Mapping[str, list[float]], over: str, under: str) -> list[float]:
    """`over` divided by `under`, round by round."""
    return [one / other for one, other in zip(readings[over], readings[under], strict=True)]
