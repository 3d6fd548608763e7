"""A stage with all of a recipe of today switched on ends with the same bits wherever it was interrupted."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored import read_checkpoint
from tiny_stage import course, interrupted, make_spec, never, run_stopped_at

from workers.data.store.preparation import prepare
from workers.protocol import StageResult, StageSpec
from workers.settings.averaging import AveragingSettings
from workers.settings.dataset import DatasetSettings, Source
from workers.settings.model import ModelSettings
from workers.settings.training import (
    AugmentationSettings,
    ClassWeights,
    Decay,
    KeptCheckpoint,
    LossSettings,
    OptimizerSettings,
    Policy,
    Recipe,
    Sampler,
    ScheduleSettings,
)
from workers.storage.checkpoint import write_checkpoint
from workers.training.stage import run_stage

RECIPE = Recipe(
    # With batch norm.
    model=ModelSettings(name="torchvision/shufflenet_v2_x0_5", input_size=32),
    optimizer=OptimizerSettings(
        name="adamw",
        lr=0.002,
        weight_decay=0.05,
        decay_biases=False,
        decay_norms=False,
        layer_lr_decay=0.99,
        batch_size=64,
        shards=2,
        clip_norm=1.0,
    ),
    schedule=ScheduleSettings(decay=Decay.one_cycle, epochs=2, warmup_share=0.3, final_lr_share=1e-3),
    augmentation=AugmentationSettings(
        resized_crop=True,
        policy=Policy.trivialaugment,
        contrast=0.4,
        random_erasing=0.5,
        mixup=0.8,
        cutmix=1.0,
        sampler=Sampler.balanced,
    ),
    loss=LossSettings(label_smoothing=0.1, class_weights=ClassWeights.balanced),
    averaging=AveragingSettings(ema_decay=0.9),
)
NUM_UPDATES = 38
STOPS = sorted(random.Random(2026).sample(range(1, NUM_UPDATES), 10))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[StageSpec, StageResult]:
    folder = tmp_path_factory.mktemp("everything")
    store = prepare(DatasetSettings(source=Source.digits, size=36), folder / "store")
    spec = make_spec(store, folder / "stage", RECIPE, checkpoint_updates=100)
    spec = replace(spec, keep=KeptCheckpoint.ema)
    return spec, run_stage(spec, never)


@pytest.mark.slow
def test_stage_with_everything_on_resumes_at_ten_updates_with_the_same_bits(
    undisturbed: tuple[StageSpec, StageResult], tmp_path: Path
) -> None:
    spec, whole = undisturbed
    assert whole.num_updates == NUM_UPDATES
    assert run_stopped_at(spec, tmp_path, STOPS).checkpoint_sha256 == whole.checkpoint_sha256
    assert course(tmp_path) == course(spec.stage_dir)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prefix", "forge", "same"),
    [("", np.copy, True), ("average/", np.zeros_like, False), ("step/", np.zeros_like, False)],
    ids=["nothing lost", "average lost", "counts of updates lost"],
)
def test_stage_that_lost_state_ends_otherwise(
    undisturbed: tuple[StageSpec, StageResult],
    tmp_path: Path,
    prefix: str,
    forge: Callable[[np.ndarray], np.ndarray],
    same: bool,
) -> None:
    spec, whole = undisturbed
    stopped = interrupted(spec, tmp_path / "stopped", STOPS[-1])
    saved = read_checkpoint(stopped.stage_dir / "checkpoints" / f"step-{STOPS[-1]:08d}")
    state = {name: forge(value) if name.startswith(prefix) else value for name, value in saved.optimizer.items()}
    forged = replace(spec, stage_dir=tmp_path / "forged")
    about = {"stage_hash": spec.stage_hash}
    write_checkpoint(forged.stage_dir / "checkpoints", STOPS[-1], saved.model, state, dict(saved.state), about)
    assert (run_stage(forged, never).checkpoint_sha256 == whole.checkpoint_sha256) == same
