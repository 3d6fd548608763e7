"""Times two ways of doing one thing in turns, so that a busy or slowing machine meets both alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Medians over the rounds. `ratio` is peer over ours (more than 1: ours is faster), with its range over rounds."""

    ours_s: float
    peer_s: float
    ratio: float
    lowest: float
    highest: float


def _seconds(work: Callable[[], object]) -> float:
    since = time.perf_counter()
    work()
    return time.perf_counter() - since


def compare(ours: Callable[[], object], peer: Callable[[], object], rounds: int = 7) -> Comparison:
    """Runs each once to warm up, then `rounds` times in turns."""
    ours()
    peer()
    pairs = [(_seconds(ours), _seconds(peer)) for _ in range(rounds)]
    ratios = [peer_s / ours_s for ours_s, peer_s in pairs]
    return Comparison(
        ours_s=statistics.median(ours_s for ours_s, _ in pairs),
        peer_s=statistics.median(peer_s for _, peer_s in pairs),
        ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
    )
