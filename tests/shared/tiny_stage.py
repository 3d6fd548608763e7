"""One small real stage on scikit-learn's digits: twelve updates in four epochs, a checkpoint after each."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from stages import never as never, stop_after

from workers.data.store.preparation import prepare
from workers.errors import Stopped
from workers.protocol import Numerics, StageResult, StageSpec
from workers.settings.dataset import DatasetSettings, Source
from workers.settings.model import ModelSettings
from workers.settings.training import AugmentationSettings, KeptCheckpoint, OptimizerSettings, Recipe, ScheduleSettings
from workers.training.stage import run_stage

TINY = Recipe(
    model=ModelSettings(input_size=16, width=0.05, conv1_kernel=3, conv1_stride=1, conv1_padding=1, fc_units=16),
    optimizer=OptimizerSettings(lr=0.02, batch_size=400),
    # Whether and when the rate is cut depends on the state that a checkpoint keeps.
    schedule=ScheduleSettings(epochs=4, patience=1, warmup_updates=4),
    augmentation=AugmentationSettings(reflect=False),
)


def make_store(folder: Path) -> Path:
    return prepare(DatasetSettings(source=Source.digits, size=18), folder)


def make_spec(store: Path, stage_dir: Path, recipe: Recipe = TINY, *, checkpoint_updates: int = 1) -> StageSpec:
    return StageSpec(
        member="base1",
        stage="train",
        seed=11,
        recipe=recipe,
        store=store,
        stage_dir=stage_dir,
        init_dir=None,
        numerics=Numerics(),
        checkpoint_updates=checkpoint_updates,
        keep=KeptCheckpoint.last,
        stage_hash="h",
    )


def interrupted(spec: StageSpec, stage_dir: Path, updates: int) -> StageSpec:
    """A stage of its own in `stage_dir`, stopped after `updates` updates."""
    own = replace(spec, stage_dir=stage_dir)
    try:
        run_stage(own, stop_after(updates))
    except Stopped:
        return own
    raise AssertionError("it was over before it was stopped")


def run_in_pieces(spec: StageSpec, every: int) -> tuple[StageResult, int]:
    """Stops the stage every few updates and runs it again, to its end; the result, and how often it was stopped."""
    stops = 0
    while True:
        try:
            return run_stage(spec, stop_after(every)), stops
        except Stopped:
            stops += 1


def run_stopped_at(spec: StageSpec, stage_dir: Path, updates: Sequence[int]) -> StageResult:
    """Stops the stage when so many updates are made in all, one after another, and then runs it to its end."""
    for more in np.diff([0, *updates]):
        interrupted(spec, stage_dir, int(more))
    result = run_stage(replace(spec, stage_dir=stage_dir), never)
    assert result.resumed_from == updates[-1]
    return result


def course(stage_dir: Path) -> list[tuple[int, dict[str, Any]]]:
    """metrics.jsonl less what depends on the machine's speed and load."""
    points = [json.loads(line) for line in (stage_dir / "metrics.jsonl").read_text().splitlines()]
    timing = {"images_per_second", "data_wait"}
    kept = [{k: v for k, v in p["metrics"].items() if k not in timing and not k.startswith("system/")} for p in points]
    return [(point["step"], metrics) for point, metrics in zip(points, kept, strict=True)]
