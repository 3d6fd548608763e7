"""Preparing a store from full-resolution photographs, on one core and on two, beside PIL's resize-and-crop on one."""

import os
import shutil
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.peers.transforms import resized_and_cropped
from benchmarks.row import Measure, Row, Settings, Skipped, Spread, Wanted
from benchmarks.turns import Contestant, Turns, ratios, take_turns
from benchmarks.whole_job import photographs
from workers.data.prepare import prepare
from workers.settings import DatasetSettings

_SIDE, _COPIES = 256, 4


def _ours(root: Path, stores: Path, turns: Turns) -> None:
    """The whole preparation, from listing the folder to the committed store; its threads are as many as its cores."""

    def anew() -> None:
        shutil.rmtree(stores, ignore_errors=True)
        prepare(DatasetSettings(root=str(root), size=_SIDE), stores)

    turns.play(anew)


def _on_cores(num_cores: int, contestant: Contestant, turns: Turns) -> None:
    """Keeps a contestant, and every thread it starts, on the first of the machine's cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])
    contestant(turns)


def run(settings: Settings) -> tuple[Row, ...]:
    """A thousand photographs: 200, each four times in train and once in test, as files that differ in a comment."""
    if settings.images is None:
        raise Skipped("needs --images FOLDER with 200 full-resolution JPEG photographs")
    root = photographs(settings.images, settings.scratch / "photographs", copies=_COPIES)
    paths = sorted(root.rglob("*.JPEG"))

    def peer(resample: Image.Resampling) -> Contestant:
        return partial(resized_and_cropped, paths, _SIDE, resample, settings.scratch / f"{resample.name}.npy")

    def ours(cores: int) -> Contestant:
        return partial(_ours, root, settings.scratch / f"stores-{cores}")

    contestants = {
        "bicubic": partial(_on_cores, 1, peer(Image.Resampling.BICUBIC)),
        "bilinear": partial(_on_cores, 1, peer(Image.Resampling.BILINEAR)),
        "one": partial(_on_cores, 1, ours(1)),
    }
    two_cores = len(os.sched_getaffinity(0)) >= 2
    if two_cores:
        contestants["two"] = partial(_on_cores, 2, ours(2))
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

    what = "preparing photographs on one core beside PIL's"
    files = f"{len(paths)} files, {_SIDE} px; ours hashes and fsyncs as well"
    rows = [
        row(f"{what} bicubic resize-and-crop", "bicubic", "one", Wanted(1.7), files),
        row(f"{what} bilinear resize-and-crop", "bilinear", "one", None, f"{files}; torchvision's default"),
    ]
    if two_cores:
        rows.append(
            row("preparing photographs on two cores beside one", "one", "two", Wanted(1.8), "beside: ours on one core")
        )
    return tuple(rows)
