"""Measures how long a checkpoint stalls training of a full-size net, in steps, beside torch.save in the loop."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks import synthetic
from benchmarks.numerics import fastest
from benchmarks.peers.nets import full_size
from benchmarks.row import Measure, Row, Settings, Spread, Wanted
from benchmarks.training_step import ours
from benchmarks.turns import Turns, take_turns

# Long enough that a checkpoint is on disk before the next is due, and before the others' turns.
_PERIOD = 5
_BATCH, _CLASSES, _SIDE = 128, 1000, 224
_MOST_REPEATS = 5


def _torch_save(path: Path, turns: Turns) -> None:
    """Saves weights and momentum as a user would: they are on disk before training continues."""
    model = full_size(_CLASSES)
    state = {name: (value, torch.zeros_like(value)) for name, value in model.state_dict().items()}

    def save() -> None:
        with path.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())

    turns.play(save)


def run(settings: Settings) -> Row:
    """Times five steps with a checkpoint among them, and five without, in turns; the difference is the stall."""
    repeats = min(settings.repeats, _MOST_REPEATS)
    num_images = ((repeats + 2) * _PERIOD + 2) * _BATCH
    store = synthetic.store(settings.scratch, num_images, _CLASSES, _SIDE)
    spec = synthetic.stage(store, settings.scratch / "none", synthetic.FULL_SIZE, _BATCH, fastest(settings.threads))
    saving = replace(spec, stage_dir=settings.scratch / "saving", checkpoint_updates=_PERIOD)
    readings = take_turns(
        {
            "saving": partial(ours, saving, _PERIOD),
            "step": partial(ours, spec, _PERIOD),
            "torch.save": partial(_torch_save, settings.scratch / "state.pt"),
        },
        repeats,
    )
    step = Spread.of(readings["step"]).median
    stalls = [_PERIOD * (one - other) / other for one, other in zip(readings["saving"], readings["step"], strict=True)]
    return Row(
        name="checkpoint of the full-size net: training held up",
        unit="steps",
        ours=Spread.of(stalls).median,
        peer=Spread.of(readings["torch.save"]).median / step,
        limit=None,
        ratio=Spread.of(stalls),
        measure=Measure.steps,
        wanted=Wanted(1.0, at_least=False),
        repeats=repeats,
        note=f"one step is {step:.2f} s; beside: torch.save and fsync of weights and momentum",
    )
