"""Trains a stage to its end or to a stop, and reads what it leaves."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from stored import read_checkpoint

from workers.protocol import StageSpec
from workers.storage import Contents, read_finished, read_weights, write_finished
from workers.training import run_stage


def never() -> bool:
    """Nobody asks to stop."""
    return False


def stop_after(updates: int) -> Callable[[], bool]:
    """Asks to stop after that many updates from now on."""
    asked: list[None] = []

    def should_stop() -> bool:
        asked.append(None)
        return len(asked) >= updates

    return should_stop


def trained(spec: StageSpec) -> StageSpec:
    """Trains the stage to its end, as a worker does, and returns it."""
    write_finished(spec.stage_dir, spec.stage_hash, run_stage(spec, never))
    return spec


def contents(spec: StageSpec) -> Contents:
    """Reads the final checkpoint of a finished stage."""
    return read_checkpoint(_final(spec))


def weights(spec: StageSpec) -> dict[str, np.ndarray]:
    """Reads the weights that a finished stage predicts with."""
    return read_weights(_final(spec)).model


def _final(spec: StageSpec) -> Path:
    return spec.stage_dir / "checkpoints" / read_finished(spec.stage_dir).checkpoint
