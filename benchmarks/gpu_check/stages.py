"""Makes the stages and numerics that checks train with: real pixels, the digits that Septet brings along."""

import os
from dataclasses import fields, replace
from pathlib import Path

from benchmarks.gpu_check.checks import Target
from workers.data.store import prepare
from workers.numerics import capabilities
from workers.protocol import Numerics, StageSpec
from workers.settings import (
    AugmentationSettings,
    DatasetSettings,
    KeptCheckpoint,
    Layout,
    ModelSettings,
    OptimizerSettings,
    Recipe,
    ScheduleSettings,
    Source,
)

# Twelve updates in four epochs; warm-up and cuts of the rate depend on the state that a checkpoint keeps.
RECIPE = Recipe(
    model=ModelSettings(input_size=16, width=0.05, conv1_kernel=3, conv1_stride=1, conv1_padding=1, fc_units=16),
    optimizer=OptimizerSettings(lr=0.02, batch_size=400),
    schedule=ScheduleSettings(epochs=4, patience=1, warmup_updates=4),
    augmentation=AugmentationSettings(),
)
NUM_UPDATES = 12


def numerics(target: Target, precision: str, compile_: str | None = None) -> Numerics:
    """Returns what a run would choose on the target's device; `compile_` is for a `Numerics` that has that choice."""
    threads = 1 if target.quick else min(8, os.cpu_count() or 1)
    kernels = "compiled" if target.device == "cpu" and capabilities().compiled_kernels else "torch"
    chosen = Numerics(threads=threads, precision=precision, device=target.device, kernels=kernels)
    return chosen if compile_ is None else replace(chosen, compile=compile_)  # type: ignore[call-arg]


def compile_choices() -> tuple[str | None, ...]:
    """Returns what `Numerics.compile` may be; None alone where this program has no such choice."""
    return ("off", "fused", "graphs") if "compile" in {one.name for one in fields(Numerics)} else (None,)


def digits(target: Target) -> Path:
    """Prepares the digits once."""
    return prepare(DatasetSettings(source=Source.digits, size=18), target.scratch / "digits")


def stage(target: Target, name: str, precision: str, layout: Layout = Layout.grouped) -> StageSpec:
    """Returns the stage of `RECIPE` in a folder of its own; it saves a checkpoint after every update."""
    model = replace(RECIPE.model, layout=layout, lrn_across_halves=False)
    return StageSpec(
        member="check",
        stage=name,
        seed=11,
        recipe=replace(RECIPE, model=model),
        store=digits(target),
        stage_dir=target.scratch / "stages" / name,
        init_dir=None,
        numerics=numerics(target, precision),
        checkpoint_updates=1,
        keep=KeptCheckpoint.last,
        stage_hash="gpu-check",
    )
