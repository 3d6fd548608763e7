"""Times this checkout beside another one of the project, such as the commit before a change.

`python -m benchmarks.checkouts OTHER` runs both in turns, each in processes of its own, with its own code and the same
pixels: the step at full and at small size, the input path alone, and the memory of each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.row import Spread
from benchmarks.turns import Turns, peak_mb, ratios

_HERE = Path(__file__).parents[1]
_CASES = ("full step", "small step", "input path")
# Of one turn.
_UPDATES = {"full step": 1, "small step": 25}
_AT_ONCE = 10


class _Lines(Turns):
    """A contestant's side over standard input and output; the last line tells memory and data wait."""

    def __init__(self, metrics: Path) -> None:
        self._metrics = metrics

    def play(self, work: Callable[[], object], *rest: Any) -> None:
        """Reports the seconds of several pieces of work, as they follow one another in training."""
        super().play(lambda: [work() for _ in range(_AT_ONCE)], *rest)

    def next(self, reading: float) -> None:
        sys.stdout.write(f"{reading}\n")
        sys.stdout.flush()
        if sys.stdin.readline() != "again\n":
            sys.stdout.write(json.dumps(self._end()) + "\n")
            sys.stdout.flush()
            os._exit(0)

    def _end(self) -> dict[str, float]:
        lines = self._metrics.read_text().splitlines() if self._metrics.is_file() else []
        waits = [json.loads(line)["metrics"]["data_wait"] for line in lines]
        return {"peak_mb": peak_mb(), **({"data_wait": Spread.of(waits).median} if waits else {})}


def _perform(case: str, scratch: Path, threads: int, repeats: int) -> None:
    """Plays one case with the code of the checkout that this process imports."""
    from benchmarks import input_pipeline, synthetic, training_step
    from benchmarks.numerics import fastest

    turns = _Lines(scratch / "member" / "metrics.jsonl")
    if case == "input path":
        input_pipeline._ours(turns)
        return
    model, side, batch, classes = (
        (synthetic.FULL_SIZE, 256, 128, 1000) if case == "full step" else (synthetic.SMALL, 64, 64, 40)
    )
    updates = _UPDATES[case]
    # One epoch lasts longer than all turns, so no turn includes an evaluation.
    num_images = (2 + (repeats + 2) * updates) * batch
    store = synthetic.store(scratch.parent / case.replace(" ", "-"), num_images, classes, side)
    training_step.ours(
        synthetic.stage(store, scratch / "member", model, batch, fastest(threads if side == 256 else 1)), updates, turns
    )


@dataclass
class _Side:
    """One checkout at work on one case."""

    process: subprocess.Popen[str]

    @classmethod
    def begin(cls, checkout: Path, case: str, scratch: Path, threads: int, repeats: int) -> "_Side":
        words = [sys.executable, str(Path(__file__)), "--case", case, "--scratch", str(scratch)]
        words += ["--threads", str(threads), "--repeats", str(repeats)]
        pipe = subprocess.PIPE
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        side = cls(subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=scratch))
        side._answer()
        return side

    def play(self) -> float:
        return float(self._ask("again"))

    def end(self) -> dict[str, float]:
        ended: dict[str, float] = json.loads(self._ask("no more"))
        self.process.wait()
        return ended

    def _ask(self, word: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EOFError("a side died; its traceback is on stderr")
        return line


def measure(other: Path, case: str, threads: int, repeats: int, scratch: Path) -> str:
    """Returns one line: the median ratio of the other checkout's time to ours, its range, and what both used."""
    sides = {}
    for name, checkout in (("other", other), ("ours", _HERE)):
        folder = scratch / name / case.replace(" ", "-")
        folder.mkdir(parents=True)
        sides[name] = _Side.begin(checkout, case, folder, threads, repeats)
    readings: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            readings[name].append(sides[name].play())
    ended = {name: side.end() for name, side in sides.items()}
    ratio = Spread.of(ratios(readings, "other", "ours"))
    times = ", ".join(f"{name} {1e3 * Spread.of(values).median:.2f} ms" for name, values in readings.items())
    used = "; ".join(
        f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in values.items()) for name, values in ended.items()
    )
    return f"{case}: {ratio.median:.3f} × ({ratio.low:.3f} to {ratio.high:.3f}), {times}, {repeats} turns; {used}"


def main(words: Sequence[str]) -> None:
    """Parses the command line, and measures; or plays one side, if `--case` and `--scratch` say so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, nargs="?", help="a checkout whose kernels are built")
    parser.add_argument("--cases", nargs="+", choices=_CASES, default=list(_CASES))
    parser.add_argument("--case", choices=_CASES, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=11)
    given = parser.parse_args(words)
    if given.case:
        _perform(given.case, given.scratch, given.threads, given.repeats)
        return
    if given.other is None or not (given.other / "workers").is_dir():
        parser.error("give the folder of another checkout of this project")
    with tempfile.TemporaryDirectory() as scratch:
        for case in given.cases:
            sys.stdout.write(
                measure(given.other.resolve(), case, given.threads, given.repeats, Path(scratch) / case) + "\n"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
