"""Makes the stages and numerics that checks train with: real pixels, the digits that Septet brings along."""

import os
from dataclasses import replace
from pathlib import Path

from benchmarks import synthetic
from benchmarks.gpu_check.checks import Target
from workers.data.store import prepare
from workers.numerics import capabilities
from workers.protocol import COMPILE_MODES, Numerics, StageSpec
from workers.settings import (
    AugmentationSettings,
    DatasetSettings,
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


def numerics(target: Target, precision: str, mode: str = "off") -> Numerics:
    """Returns what a run would choose on the target's device; `mode` is how its steps are compiled."""
    threads = 1 if target.quick else min(8, os.cpu_count() or 1)
    kernels = "compiled" if target.device == "cpu" and capabilities().compiled_kernels else "torch"
    return Numerics(threads=threads, precision=precision, device=target.device, kernels=kernels, compile=mode)


def modes(target: Target) -> tuple[str, ...]:
    """Returns how steps may be compiled there; on CPUs they never are."""
    return COMPILE_MODES if target.device == "cuda" else COMPILE_MODES[:1]


def digits(target: Target) -> Path:
    """Prepares the digits once."""
    return prepare(DatasetSettings(source=Source.digits, size=18), target.scratch / "digits")


def stage(target: Target, name: str, precision: str, layout: Layout = Layout.grouped) -> StageSpec:
    """Returns the stage of `RECIPE` in a folder of its own; it saves a checkpoint after every update."""
    model = replace(RECIPE.model, layout=layout, lrn_across_halves=False)
    place = target.scratch / "stages" / name
    plain = synthetic.stage(digits(target), place, model, RECIPE.optimizer.batch_size, numerics(target, precision))
    return replace(plain, stage=name, recipe=replace(RECIPE, model=model), checkpoint_updates=1)
