"""Times what verifying prepared pixels costs: a training step with it beside one without, and opening a store."""

from functools import partial

from benchmarks import synthetic
from benchmarks.numerics import fastest
from benchmarks.row import Measure, Row, Settings, Spread, Wanted
from benchmarks.training_step import ours
from benchmarks.turns import Turns, ratios, take_turns
from workers.data.store import Pixels, Store, damaged_files, open_store
from workers.protocol import StageSpec
from workers.settings import Verify

_CLASSES, _SIDE, _BATCH, _UPDATES, _WARM_UP = 40, 64, 64, 5, 2


def _unverified(spec: StageSpec, turns: Turns) -> None:
    """The same stage, whose images are not compared with their checksums."""

    def images(store: Store, split: str) -> Pixels:
        return Pixels(store.shards[split], store.size)

    Store.images = images  # type: ignore[method-assign]
    ours(spec, _UPDATES, turns)


def _opened(store: Store, verify: Verify, turns: Turns) -> None:
    turns.play(lambda: damaged_files(store.path, store.files, verify))


def run(settings: Settings) -> tuple[Row, ...]:
    """Measures the net of the tiny_imagenet experiment on one thread, and the store that it trains on here."""
    num_images = (_WARM_UP + (settings.repeats + 2) * _UPDATES) * _BATCH
    path = synthetic.store(settings.scratch, num_images, _CLASSES, _SIDE)
    stages = {
        name: synthetic.stage(path, settings.scratch / name, synthetic.SMALL, _BATCH, fastest(1))
        for name in ("verified", "unverified")
    }
    readings = take_turns(
        {
            "verified": partial(ours, stages["verified"], _UPDATES),
            "unverified": partial(_unverified, stages["unverified"]),
        },
        settings.repeats,
    )
    speed = {name: _BATCH / Spread.of(seconds).median for name, seconds in readings.items()}
    step = Row(
        "small training step with images verified beside one without", "images/s", speed["verified"],
        speed["unverified"], None, Spread.of(ratios(readings, "verified", "unverified")), Measure.times,
        Wanted(1.02, at_least=False), settings.repeats, f"{_SIDE} px raw, batch {_BATCH}, 1 thread",
    )  # fmt: skip
    store = open_store(path)
    opening = take_turns({each.value: partial(_opened, store, each) for each in Verify}, settings.repeats)
    whole = Spread.of(opening["always"])
    num_bytes = sum(entry.size for entry in store.files.values())
    read = Row(
        "opening a store: every file read whole", "GB/s", num_bytes / whole.median / 1e9, None, None, whole,
        Measure.seconds, None, settings.repeats,
        f"{num_bytes / 1e6:.0f} MB, all cores; unchanged since it was verified: "
        f"{Spread.of(opening['changed']).median * 1e3:.1f} ms",
    )  # fmt: skip
    return (step, read)
