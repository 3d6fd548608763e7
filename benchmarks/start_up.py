"""Times `septet --help` beside `python -c pass`: the cost of the command's own imports before it answers."""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.row import Measure, Row, Settings, Spread, Wanted


def _seconds(command: list[str]) -> float:
    since = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - since


def run(settings: Settings) -> Row:
    """Measures both in turns, after running each once to fill the page cache."""
    septet, nothing = [str(Path(sys.executable).with_name("septet")), "--help"], [sys.executable, "-c", "pass"]
    _seconds(septet), _seconds(nothing)
    pairs = [(_seconds(septet), _seconds(nothing)) for _ in range(settings.repeats)]
    ours, peer = (Spread.of(side).median for side in zip(*pairs, strict=True))
    return Row(
        name="`septet --help` less `python -c pass`",
        unit="s",
        ours=ours,
        peer=peer,
        limit=None,
        ratio=Spread.of([one - other for one, other in pairs]),
        measure=Measure.seconds,
        wanted=Wanted(0.5, at_least=False),
        repeats=settings.repeats,
    )
