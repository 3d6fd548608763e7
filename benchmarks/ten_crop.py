"""Times ten-crop prediction at full size as a member does it, beside plain PyTorch with its best batch."""

from contextlib import suppress
from functools import partial

from benchmarks import limits, synthetic
from benchmarks.numerics import fastest
from benchmarks.peers import ten_crop as peers
from benchmarks.row import Measure, Row, Settings, Spread, Wanted
from benchmarks.turns import Contestant, Turns, ratios, take_turns
from workers.data.store import open_store
from workers.errors import Stopped
from workers.inference import load_member, mean_over_crops
from workers.models import outline
from workers.protocol import StageResult, StageSpec
from workers.settings import Crops
from workers.storage import newest_checkpoint, write_finished
from workers.training import run_stage

_IMAGES, _CLASSES, _SIDE = 64, 1000, 256
_BATCHES = (1, 2, 4, 8, 16)
# Enough rounds to distinguish the batches.
_TRIED_IMAGES = 16


def _ours(spec: StageSpec, turns: Turns) -> None:
    member = load_member(spec.stage_dir, spec.store, spec.recipe, spec.numerics)
    images = open_store(spec.store).images("train")[:_IMAGES]
    turns.play(lambda: mean_over_crops(member, images, Crops.ten))


def _finish(spec: StageSpec) -> None:
    """Trains one update and marks the stage as done."""
    with suppress(Stopped):
        run_stage(spec, lambda: True)
    contents = newest_checkpoint(spec.stage_dir / "checkpoints")
    assert contents is not None
    checkpoint = contents.checkpoint
    result = StageResult(1, 0, checkpoint.folder.name, checkpoint.model_sha256, 1.0, 1.0, at_chance=True)
    write_finished(spec.stage_dir, spec.stage_hash, result)


def run(settings: Settings) -> tuple[Row, ...]:
    """Measures 64 images of 256 pixels, 1,000 classes; the peer's batch is the best of several, tried first."""
    store = synthetic.store(settings.scratch, _IMAGES, _IMAGES, _SIDE)
    spec = synthetic.stage(store, settings.scratch / "member", synthetic.FULL_SIZE, 8, fastest(settings.threads))
    _finish(spec)

    def peer(batch: int, num_images: int = _IMAGES, *, fast: bool) -> Contestant:
        return partial(peers.predict, "full_size", _CLASSES, num_images, batch, settings.threads, fast)

    def best(*, fast: bool) -> int:
        tried = take_turns({str(batch): peer(batch, _TRIED_IMAGES, fast=fast) for batch in _BATCHES}, rounds=2)
        return int(min(tried, key=lambda batch: min(tried[batch])))

    plain, fast = best(fast=False), best(fast=True)
    contestants = {
        "ours": partial(_ours, spec),
        "plain": peer(plain, fast=False),
        "fast": peer(fast, fast=True),
        "limit": partial(limits.matrix_products, settings.threads),
    }
    readings = take_turns(contestants, settings.repeats)
    flops = 2 * 10 * outline(synthetic.FULL_SIZE, _CLASSES).num_macs
    limit = Spread.of(readings["limit"]).median / flops
    speed = {name: _IMAGES / Spread.of(readings[name]).median for name in ("ours", "plain", "fast")}

    def beside(name: str, title: str, batch: int, wanted: Wanted | None) -> Row:
        return Row(
            name=f"ten-crop, full size, beside {title}",
            unit="images/s",
            ours=speed["ours"],
            peer=speed[name],
            limit=limit,
            ratio=Spread.of(ratios(readings, name, "ours")),
            measure=Measure.times,
            wanted=wanted,
            repeats=settings.repeats,
            note=f"peer's batch {batch}, best of {', '.join(map(str, _BATCHES))}; limit: ten whole forward passes",
        )

    return (
        beside("plain", "plain PyTorch, fp32", plain, Wanted(4.3)),
        beside("fast", "PyTorch with channels_last and bf16 autocast", fast, None),
    )
