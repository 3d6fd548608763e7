"""Times uint8 training crops from the prepared store, raw and JPEG, beside torchvision's transform of photographs."""

from functools import partial
from pathlib import Path

from benchmarks.peers.transforms import training_crops
from benchmarks.row import Measure, Row, Settings, Skipped, Spread, Wanted
from benchmarks.turns import Turns, ratios, take_turns
from benchmarks.whole_job import photographs
from workers.data.loading import crop, draw_epoch
from workers.data.store import open_store, prepare
from workers.settings import AugmentationSettings, DatasetSettings, StoreFormat

_STORED, _INPUT, _BATCH = 256, 224, 128
# Our passes are short, so this many of them make one turn.
_PASSES = {StoreFormat.raw: 40, StoreFormat.jpeg: 6}
_WANTED = {StoreFormat.raw: 40, StoreFormat.jpeg: 6}


def _ours(store: Path, num_passes: int, turns: Turns) -> None:
    """Reads train in an epoch's order, in batches."""
    images = open_store(store).images("train")
    epoch = 0

    def passes() -> None:
        nonlocal epoch
        for _ in range(num_passes):
            epoch += 1
            draws = draw_epoch(0, epoch, len(images), _STORED - _INPUT, AugmentationSettings())
            for start in range(0, len(images), _BATCH):
                span = slice(start, start + _BATCH)
                crop(images, draws.order[span], draws.offsets[span], _INPUT)

    turns.play(passes)


def run(settings: Settings) -> tuple[Row, ...]:
    """Measures both sides on the photographs that the store's train was made of, with one thread each."""
    if settings.images is None:
        raise Skipped("needs --images FOLDER with 200 full-resolution JPEG photographs")
    root = photographs(settings.images, settings.scratch / "photographs", copies=2)
    contestants = {}
    num_images = 0
    for store_format in StoreFormat:
        store = prepare(
            DatasetSettings(root=str(root), size=_STORED, store_format=store_format), settings.scratch / "stores"
        )
        num_images = open_store(store).counts["train"]
        contestants[store_format.value] = partial(_ours, store, _PASSES[store_format])
    paths = sorted((root / "train").rglob("*.JPEG"))
    readings = take_turns({**contestants, "peer": partial(training_crops, paths, _INPUT)}, settings.repeats)
    speed = {"peer": len(paths) / Spread.of(readings["peer"]).median}
    rows = []
    for store_format in StoreFormat:
        name, num_passes = store_format.value, _PASSES[store_format]
        per_image = len(paths) / (num_images * num_passes)
        times = [ratio / per_image for ratio in ratios(readings, "peer", name)]
        rows.append(
            Row(
                name=f"training crops from the {name} store beside torchvision's transform of photographs",
                unit="images/s",
                ours=num_images * num_passes / Spread.of(readings[name]).median,
                peer=speed["peer"],
                limit=None,
                ratio=Spread.of(times),
                measure=Measure.times,
                wanted=Wanted(_WANTED[store_format]),
                repeats=settings.repeats,
                note=f"{_INPUT} px of {_STORED} px, uint8, not reflected, 1 thread; peer: RandomResizedCrop",
            )
        )
    return tuple(rows)
