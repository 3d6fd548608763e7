"""Measures a launch against members and images, and a training step against classes, and fits a line to each.

    python -m benchmarks.scaling [members] [images] [classes]
    python -m benchmarks.scaling members --beside CHECKOUT --rounds 5

It takes about eight minutes. Members train one epoch of the digits; all else is generated, at 64 pixels. The fit is
ordinary least squares: fixed cost and slope. The last column is the largest deviation from the line, as a share of the
measured value. With `--beside`, launches of another checkout of the project and of this one take turns, and there is a
line of each for every round.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import scripts, synthetic
from benchmarks.numerics import fastest
from benchmarks.orchestrator_share import slots_used, work_of
from benchmarks.row import Spread
from benchmarks.training_step import ours
from benchmarks.turns import take_turns

_MEMBERS, _IMAGES, _CLASSES = (1, 2, 4, 7), (2000, 4000, 8000), (10, 100, 1000, 5000)
_EPOCHS = 2
_HERE = Path(__file__).parents[1]


def _launch(folder: Path, num_members: int, *overrides: str, checkout: Path = _HERE) -> scripts.Launched:
    stage = "{stages: {train: {dataset: target}}}"
    members = [f"+ensemble.members.m{number}={stage}" for number in range(num_members)]
    nobody = [f"~ensemble.members.base{number}" for number in range(1, 6)]
    words = ("ensemble=five", "~ensemble.stages", *members, *nobody, *overrides)
    return scripts.launch(folder / "launch", *words, checkout=checkout)


def members(scratch: Path, checkout: Path = _HERE) -> dict[float, float]:
    """Returns seconds of a launch by number of members; prints what the most of them worked themselves."""
    found: dict[float, float] = {}
    for number in _MEMBERS:
        words = "experiment=digits", "schedule.epochs=1"
        launched = _launch(scratch / f"members-{number}", number, *words, checkout=checkout)
        found[number] = launched.seconds
    works = work_of(launched.run_dir)
    own = sum(work.end - work.start for work in works) / _MEMBERS[-1] / slots_used(works)
    print(f"training and predicting itself: {own:.3g} s a member and slot", file=sys.stderr, flush=True)
    return found


def images(scratch: Path) -> dict[float, float]:
    """Returns seconds of a launch of two members by number of training images."""
    found: dict[float, float] = {}
    for number in _IMAGES:
        folder = scratch / f"images-{number}"
        root = synthetic.class_folders(folder / "images", number, 10, 64, num_test=100)
        words = "experiment=tiny_imagenet", f"datasets.target.root={root}", f"schedule.epochs={_EPOCHS}"
        found[number] = _launch(folder, 2, *words).seconds
    return found


def classes(scratch: Path) -> dict[float, float]:
    """Returns seconds of a small net's training step of 64 images by number of classes, one thread."""
    specs = {
        number: synthetic.stage(
            synthetic.store(scratch / f"classes-{number}", max(number, 64 * 20), number, 64),
            scratch / f"member-{number}", synthetic.SMALL, 64, fastest(threads=1),
        )
        for number in _CLASSES
    }  # fmt: skip
    readings = take_turns({str(number): partial(ours, spec, 3) for number, spec in specs.items()}, rounds=5)
    return {number: Spread.of(readings[str(number)]).median for number in specs}


_SCALES: Mapping[str, tuple[Callable[[Path], dict[float, float]], str]] = {
    "members": (members, "a launch of m members, one epoch of the digits"),
    "images": (images, f"a launch of two members, n images, {_EPOCHS} epochs"),
    "classes": (classes, "a small net's step of 64 images, c classes"),
}


def line(name: str, measured: Mapping[float, float], what: str) -> str:
    """Returns a line of markdown: the measured seconds and the fitted line."""
    slope, fixed = np.polyfit(list(measured), list(measured.values()), deg=1)
    worst = max(abs(fixed + slope * at - seconds) / seconds for at, seconds in measured.items())
    points = ", ".join(f"{at:,}: {seconds:.3g} s" for at, seconds in measured.items())
    return f"| {name} | {what} | {points} | {fixed:.3g} s + {slope:.3g} s × {name} | {100 * worst:.0f} % |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scales", nargs="*", metavar="SCALE", help=f"of {', '.join(_SCALES)} (default: all)")
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", help="measure members of this one too, in turns")
    parser.add_argument("--rounds", type=int, default=1, help="of --beside (default: %(default)s)")
    given = parser.parse_args(argv)
    chosen = given.scales or list(_SCALES)
    print("| against | cost of | measured | fit | worst deviation |\n|---|---|---|---|---|", flush=True)
    sides = {"other": given.beside, "this": _HERE}
    for number in range(given.rounds if given.beside else 0):
        for side in list(sides)[:: 1 if number % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory(prefix="septet-scaling-") as scratch:
                print(line("members", members(Path(scratch), sides[side]), f"{side} checkout"), flush=True)
    for name in chosen if not given.beside else ():
        measure, what = _SCALES[name]
        with tempfile.TemporaryDirectory(prefix="septet-scaling-") as scratch:
            print(line(name, measure(Path(scratch)), what), flush=True)


if __name__ == "__main__":
    main()
