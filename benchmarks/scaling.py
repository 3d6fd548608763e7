"""Measures a launch against members and images, and a training step against classes, and fits a line to each.

    python -m benchmarks.scaling [members] [images] [classes]

It takes about eight minutes; everything runs on generated images at 64 pixels. The fit is ordinary least squares:
fixed cost and slope. The last column is the largest deviation from the line, as a share of the measured value.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import scripts, synthetic
from benchmarks.numerics import fastest
from benchmarks.row import Spread
from benchmarks.training_step import ours
from benchmarks.turns import take_turns

_MEMBERS, _IMAGES, _CLASSES = (1, 2, 4, 7), (2000, 4000, 8000), (10, 100, 1000, 5000)
_TRAINED, _EPOCHS = 2000, 2


def _launch(folder: Path, num_images: int, num_members: int) -> float:
    root = synthetic.class_folders(folder / "images", num_images, 10, 64, num_test=100)
    stage = "{stages: {train: {dataset: target}}}"
    members = [f"+ensemble.members.m{number}={stage}" for number in range(num_members)]
    nobody = [f"~ensemble.members.base{number}" for number in range(1, 6)]
    launched = scripts.launch(
        folder / "launch", "experiment=tiny_imagenet", "ensemble=five", "~ensemble.stages", *members, *nobody,
        f"datasets.target.root={root}", f"schedule.epochs={_EPOCHS}",
    )  # fmt: skip
    return launched.seconds


def members(scratch: Path) -> dict[float, float]:
    """Returns seconds of a launch by number of members."""
    return {number: _launch(scratch / f"members-{number}", _TRAINED, number) for number in _MEMBERS}


def images(scratch: Path) -> dict[float, float]:
    """Returns seconds of a launch of two members by number of training images."""
    return {number: _launch(scratch / f"images-{number}", number, 2) for number in _IMAGES}


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
    "members": (members, f"a launch of m members, {_TRAINED:,} images, {_EPOCHS} epochs"),
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
    chosen = parser.parse_args(argv).scales or list(_SCALES)
    print("| against | cost of | measured | fit | worst deviation |\n|---|---|---|---|---|", flush=True)
    for name in chosen:
        measure, what = _SCALES[name]
        with tempfile.TemporaryDirectory(prefix="septet-scaling-") as scratch:
            print(line(name, measure(Path(scratch)), what), flush=True)


if __name__ == "__main__":
    main()
