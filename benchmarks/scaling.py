"""Measures what parts of a run cost against members, nodes, images and classes, and fits each cost's growth.

    python -m benchmarks.scaling [members] [images] [classes] [driver] [nodes] [tracking] [report] [store] [wide]
    python -m benchmarks.scaling members --beside CHECKOUT --rounds 5

Each point is measured at sizes that are four times the one before, where points cost seconds. The first three fit a
line, fixed cost and slope, by least squares; the last column is the largest deviation from it. All others fit the power
of the size by which a cost grows, by least squares of logarithms, over the larger half of the sizes: 0 is a fixed cost,
1 grows as the work. `store` writes 0.9 GB for a while. Members train one epoch of the digits. With `--beside`, launches
of another checkout of the project and of this one take turns, and there is a line of each for every round.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import large_store, many_members, scripts, synthetic
from benchmarks.numerics import fastest
from benchmarks.orchestrator_share import slots_used, work_of
from benchmarks.row import Spread
from benchmarks.training_step import ours
from benchmarks.turns import take_turns
from orchestrator.config import TrackingConfig, compose
from orchestrator.inputs import survey_all
from orchestrator.plan import make_plan
from orchestrator.tracking import Ending, RunIdentity, Tracker
from workers.data.loading import draw_epoch
from workers.data.store import open_store
from workers.data.survey import Survey
from workers.settings import SPLITS, AugmentationSettings, Sampler

_MEMBERS, _IMAGES, _CLASSES = (1, 2, 4, 7), (2000, 4000, 8000), (10, 100, 1000, 5000)
_EPOCHS = 2
_HERE = Path(__file__).parents[1]
_MANY, _NODES, _RUNS, _REPORTED = (64, 256, 1024, 4096), (1, 4, 16, 64), (16, 64, 256), (16, 64, 256, 1024)
_ROWS, _WIDE = (156_250, 625_000, 2_500_000, 10_000_000), (344, 1375, 5500, 22_000)
_HEAD_OF_LINES = "| against | cost of | measured | fit | worst deviation |\n|---|---|---|---|---|"
# A verb in a process of its own, which prints its peak memory last.
_VERB = """
import sys
from benchmarks.turns import peak_mb
from orchestrator.cli.program import main
assert main(sys.argv[1:]) == 0
print(peak_mb())
"""
# Of one size: seconds, or MB, by what they are the cost of.
Costs = dict[str, float]


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


def driver(scratch: Path, num_members: int, num_nodes: int = 0) -> Costs:
    """Returns the driver's costs with stand-ins for members, 64 of which run at once."""
    found = many_members.measure(scratch / "run", num_members, num_nodes=num_nodes)
    return {
        "s, a plan, composed and hashed": found.plan,
        "s, start from disk": found.starts[0],
        "s, first look, which begins 64 members": found.first,
        "s, a look": Spread.of(found.looks).median,
        "s, septet status": found.status,
    }


def nodes(scratch: Path, num_nodes: int) -> Costs:
    """Returns the driver's costs with 256 members that run on so many nodes, which are stand-ins too."""
    found = driver(scratch, 256, num_nodes)
    return {name: found[name] for name in found if "look" in name}


def tracking(scratch: Path, num_members: int) -> Costs:
    """Returns the seconds in which members of one stage are begun, logged and ended in a new SQLite store."""
    config = compose(["ensemble=sweep", f"sweep.seed=[{','.join(map(str, range(num_members)))}]"])
    plan = make_plan(config, survey_all(config))
    identity = RunIdentity("a", "scaling", plan.hash, "scaling")
    tracker = Tracker(TrackingConfig(f"sqlite:///{scratch}/mlflow.db", required=True), identity, plan, {}, {})
    tracker.wait_until_open()
    since = time.perf_counter()
    for stage in plan.stages:
        tracker.stage_started(stage.ref)
        tracker.log(stage.ref, 1, time.time(), {"train/loss": 1.0, "val/top1_error": 0.5})
        tracker.stage_finished(stage.ref, Ending.FINISHED)
    tracker.close(Ending.FINISHED)
    return {"s, runs of all members in MLflow": time.perf_counter() - since}


def report(scratch: Path, num_members: int, num_classes: int = 10) -> Costs:
    """Returns the costs of `septet report` and `septet status` of a run of synthetic predictions of 500 images."""
    tests = Path(__file__).parent.parent / "tests"
    folders = (tests / "orchestrator", tests / "shared", tests.parent, os.environ.get("PYTHONPATH", ""))
    there = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    make = (tests / "orchestrator" / "large_run.py", scratch / "run", str(num_members), str(num_classes), "500")
    subprocess.run([sys.executable, *make], env=there, check=True)
    found = {}
    for verb in ("status", "report"):
        since = time.perf_counter()
        words = (sys.executable, "-c", _VERB, verb, str(scratch / "run"))
        said = subprocess.run(words, env=there, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[f"s, septet {verb}"] = time.perf_counter() - since
        found[f"MB, septet {verb}"] = float(said.split()[-1])
    return found


def store(scratch: Path, num_images: int) -> Costs:
    """Returns the costs of a store of so many images, whose pixels are holes in files."""
    folder = large_store.write_store(scratch / "store", num_images)

    def seconds(work: Callable[[], object]) -> float:
        since = time.perf_counter()
        work()
        return time.perf_counter() - since

    opened = open_store(folder)
    labels = opened.labels("train")
    balanced = AugmentationSettings(sampler=Sampler.balanced)
    return {
        "s, opening it": seconds(lambda: open_store(folder)),
        "s, its labels": seconds(lambda: opened.labels("train")),
        "s, its rows' names": seconds(lambda: opened.rows("train")),
        "s, an epoch's draws": seconds(lambda: draw_epoch(0, 0, num_images, 32, AugmentationSettings())),
        "s, an epoch's draws, balanced": seconds(lambda: draw_epoch(0, 0, num_images, 32, balanced, labels)),
        "MB, an epoch's draws": sum(
            each.nbytes for each in vars(draw_epoch(0, 0, num_images, 32, balanced, labels)).values()
        )
        / 1e6,
    }


def wide(scratch: Path, num_classes: int) -> Costs:
    """Returns the costs of a plan of 16 members, and of a report of four, of so many classes."""
    config = compose(["ensemble=sweep", f"sweep.seed=[{','.join(map(str, range(16)))}]"])
    names, counts = tuple(f"n{number:08d}" for number in range(num_classes)), dict.fromkeys(SPLITS, num_classes)
    since = time.perf_counter()
    make_plan(config, {"target": Survey(names, num_classes, counts, declared=False)})
    return {"s, a plan of 16 members": time.perf_counter() - since, **report(scratch, 4, num_classes)}


_LINES: Mapping[str, tuple[Callable[[Path], dict[float, float]], str]] = {
    "members": (members, "a launch of m members, one epoch of the digits"),
    "images": (images, f"a launch of two members, n images, {_EPOCHS} epochs"),
    "classes": (classes, "a small net's step of 64 images, c classes"),
}


_POWERS: Mapping[str, tuple[Callable[[Path, int], Costs], Sequence[int], str]] = {
    "driver": (driver, _MANY, "members"),
    "nodes": (nodes, _NODES, "nodes"),
    "tracking": (tracking, _RUNS, "members"),
    "report": (report, _REPORTED, "members"),
    "store": (store, _ROWS, "images"),
    "wide": (wide, _WIDE, "classes"),
}


def powers(measure: Callable[[Path, int], Costs], sizes: Sequence[int], of: str) -> Iterator[str]:
    """Yields a line of markdown for each cost: its values, and the power of the size by which it grows."""
    found = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="septet-scaling-") as scratch:
            found.append(measure(Path(scratch), size))
    later = slice(-max(2, (len(sizes) + 1) // 2), None)
    for name in found[0]:
        power, _ = np.polyfit(np.log(sizes[later]), np.log([one[name] for one in found][later]), deg=1)
        points = ", ".join(f"{size:,}: {one[name]:.3g}" for size, one in zip(sizes, found, strict=True))
        yield f"| {of} | {name} | {points} | {power:.2f} |"


def line(name: str, measured: Mapping[float, float], what: str) -> str:
    """Returns a line of markdown: the measured seconds and the fitted line."""
    slope, fixed = np.polyfit(list(measured), list(measured.values()), deg=1)
    worst = max(abs(fixed + slope * at - seconds) / seconds for at, seconds in measured.items())
    points = ", ".join(f"{at:,}: {seconds:.3g} s" for at, seconds in measured.items())
    return f"| {name} | {what} | {points} | {fixed:.3g} s + {slope:.3g} s × {name} | {100 * worst:.0f} % |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*_LINES, *_POWERS]
    parser.add_argument("scales", nargs="*", metavar="SCALE", help=f"of {', '.join(every)} (default: all)")
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", help="measure members of this one too, in turns")
    parser.add_argument("--rounds", type=int, default=1, help="of --beside (default: %(default)s)")
    given = parser.parse_args(argv)
    if given.beside:
        sides = {"other": given.beside, "this": _HERE}
        print(_HEAD_OF_LINES, flush=True)
        for number in range(given.rounds):
            for side in list(sides)[:: 1 if number % 2 == 0 else -1]:
                with tempfile.TemporaryDirectory(prefix="septet-scaling-") as scratch:
                    print(line("members", members(Path(scratch), sides[side]), f"{side} checkout"), flush=True)
        return
    for name in given.scales or every:
        if name in _LINES:
            print(_HEAD_OF_LINES, flush=True)
            measure, what = _LINES[name]
            with tempfile.TemporaryDirectory(prefix="septet-scaling-") as scratch:
                print(line(name, measure(Path(scratch)), what), flush=True)
        else:
            print("| against | cost | measured | power |\n|---|---|---|---|", flush=True)
            print(*powers(*_POWERS[name]), sep="\n", flush=True)


if __name__ == "__main__":
    main()
