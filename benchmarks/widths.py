"""Times training steps of two workers with one thread each beside one worker with two, and what eight shards cost."""

import os
import socket
from dataclasses import replace
from functools import partial

from benchmarks import synthetic
from benchmarks.numerics import fastest
from benchmarks.row import Measure, Row, Settings, Spread
from benchmarks.training_step import ours
from benchmarks.turns import Turns, ratios, take_turns
from workers.protocol import Meeting, StageSpec
from workers.settings import ModelSettings
from workers.training import run_stage

_LOOPBACK = "127.0.0.1"
_SHARDS = 8


def _together(spec: StageSpec, updates: int, turns: Turns) -> None:
    """Reports the seconds of one update of two workers; the second is a fork, which ends with the first."""
    listener = socket.create_server((_LOOPBACK, 0))
    meeting = Meeting(*listener.getsockname(), _LOOPBACK, listener.fileno())
    if os.fork() == 0:
        try:
            run_stage(replace(spec, rank=1, width=2, meeting=replace(meeting, listener=None)), lambda: False)
        finally:
            os._exit(0)
    ours(replace(spec, width=2, meeting=meeting), updates, turns)


def run(settings: Settings) -> tuple[Row, ...]:
    """Measures AlexNet at 224 pixels, batch 128, and a third of its width at 56 pixels, batch 64."""
    return (
        *_measure("full-size training step", synthetic.FULL_SIZE, 1000, 256, 128, 1, settings),
        *_measure("small training step", synthetic.SMALL, 40, 64, 64, 5, settings),
    )


def _measure(
    title: str, model: ModelSettings, num_classes: int, side: int, batch: int, updates: int, settings: Settings
) -> tuple[Row, Row]:
    # One epoch lasts longer than all turns.
    store = synthetic.store(settings.scratch, (4 + (settings.repeats + 2) * updates) * batch, num_classes, side)

    def spec(name: str, shards: int, threads: int) -> StageSpec:
        stage = synthetic.stage(store, settings.scratch / name, model, batch, fastest(threads))
        recipe = stage.recipe
        return replace(stage, recipe=replace(recipe, optimizer=replace(recipe.optimizer, shards=shards)))

    readings = take_turns(
        {
            "one shard": partial(ours, spec("one-shard", 1, 2), updates),
            "shards": partial(ours, spec("shards", _SHARDS, 2), updates),
            "two workers": partial(_together, spec("two-workers", _SHARDS, 1), updates),
        },
        settings.repeats,
    )
    speed = {name: batch / Spread.of(seconds).median for name, seconds in readings.items()}
    shape = f"{model.input_size} px, batch {batch}, {_SHARDS} shards, {fastest(1).precision}"
    return (
        Row(
            f"{title}: two workers of one thread beside one of two", "images/s", speed["two workers"], speed["shards"],
            None, Spread.of(ratios(readings, "shards", "two workers")), Measure.times, None, settings.repeats, shape,
        ),
        Row(
            f"{title}: {_SHARDS} shards beside one", "images/s", speed["shards"], speed["one shard"], None,
            Spread.of(ratios(readings, "one shard", "shards")), Measure.times, None, settings.repeats,
            f"{shape}, one worker of two threads",
        ),
    )  # fmt: skip
