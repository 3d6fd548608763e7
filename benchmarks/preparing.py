"""Times preparing a store from full-resolution photographs, on one core and two, beside PIL's resize-and-crop on one.

One core is measured in seconds of CPU, which other work on the machine affects least; two cores by the wall clock.
"""

import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.peers.transforms import resized_and_cropped
from benchmarks.row import Measure, Row, Settings, Skipped, Spread, Wanted
from benchmarks.turns import Contestant, Turns, ratios, take_turns
from benchmarks.whole_job import photographs
from workers.data.store import prepare
from workers.settings import DatasetSettings

_SIDE, _COPIES = 256, 4


def _ours(root: Path, stores: Path, clock: Callable[[], float], turns: Turns) -> None:
    """Runs the whole preparation, from listing the folder to the committed store, with one thread per core."""
    turns.play(
        lambda: prepare(DatasetSettings(root=str(root), size=_SIDE), stores),
        clock,
        undo=lambda: shutil.rmtree(stores, ignore_errors=True),
    )


def _on_cores(num_cores: int, contestant: Contestant, turns: Turns) -> None:
    """Keeps a contestant, and every thread it starts, on the machine's first `num_cores` cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])
    contestant(turns)


def run(settings: Settings) -> tuple[Row, ...]:
    """Measures a thousand files: 200 photographs, four times in train and once in test, that differ in a comment."""
    if settings.images is None:
        raise Skipped("needs --images FOLDER with 200 full-resolution JPEG photographs")
    root = photographs(settings.images, settings.scratch / "photographs", copies=_COPIES)
    paths = sorted(root.rglob("*.JPEG"))

    def peer(resample: Image.Resampling) -> Contestant:
        return partial(resized_and_cropped, paths, _SIDE, resample, settings.scratch / f"{resample.name}.npy")

    def ours(name: str, clock: Callable[[], float]) -> Contestant:
        return partial(_ours, root, settings.scratch / name, clock)

    contestants = {
        "bicubic": partial(_on_cores, 1, peer(Image.Resampling.BICUBIC)),
        "bilinear": partial(_on_cores, 1, peer(Image.Resampling.BILINEAR)),
        "cpu": partial(_on_cores, 1, ours("cpu", time.process_time)),
    }
    two_cores = len(os.sched_getaffinity(0)) >= 2
    if two_cores:
        contestants["one"] = partial(_on_cores, 1, ours("one", time.perf_counter))
        contestants["two"] = partial(_on_cores, 2, ours("two", time.perf_counter))
    readings = take_turns(contestants, settings.repeats)

    def row(name: str, over: str, under: str, wanted: Wanted | None, note: str) -> Row:
        return Row(
            name=name,
            unit="images/s",
            ours=len(paths) / Spread.of(readings[under]).median,
            peer=len(paths) / Spread.of(readings[over]).median,
            limit=None,
            ratio=Spread.of(ratios(readings, over, under)),
            measure=Measure.times,
            wanted=wanted,
            repeats=settings.repeats,
            note=note,
        )

    what = "preparing photographs, a second of one core, beside PIL's"
    files = f"{len(paths)} files, {_SIDE} px; seconds of CPU; ours hashes as well"
    rows = [
        row(f"{what} bicubic resize-and-crop", "bicubic", "cpu", Wanted(1.7), files),
        row(f"{what} bilinear resize-and-crop", "bilinear", "cpu", None, "as above; torchvision's default"),
    ]
    if two_cores:
        rows.append(
            row(
                "preparing photographs on two cores beside one",
                "one",
                "two",
                Wanted(1.8),
                "wall clock; beside: ours on one core",
            )
        )
    return tuple(rows)
