"""A stage whose rates change on the way, or that ends early, ends with the same bits wherever it was interrupted."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from stored import read_checkpoint
from tiny_stage import TINY, interrupted, make_spec, make_store, never, run_in_pieces

from workers.errors import ConfigError
from workers.protocol import StageResult, StageSpec
from workers.settings.training import (
    AugmentationSettings,
    Decay,
    Normalisation,
    OptimizerSettings,
    RateChange,
    ScheduleSettings,
    Velocity,
)
from workers.storage.checkpoint import Contents, write_checkpoint
from workers.training.stage import run_stage

# Four updates an epoch.
BASE = replace(
    TINY,
    optimizer=OptimizerSettings(lr=0.02, batch_size=300, decay_biases=False, bias_lr_scale=2.0),
    schedule=ScheduleSettings(decay=Decay.fixed, epochs=3, latest=(0.34, 0.67, 1.0), warmup_updates=3),
)
SCALED = replace(BASE.optimizer, velocity=Velocity.scaled)
# conv1 is frozen after 3 updates, in the middle of an epoch, and thaws after two epochs; the last layer is sped up.
CHANGES = {
    "freeze": RateChange(after_updates=3, layers={"conv1": 0.0}),
    "thaw": RateChange(after_share=2 / 3, layers={"conv1": 0.5}),
    "faster": RateChange(after_updates=7, layers={"fc8": 10.0}),
}
CHANGING = replace(BASE, optimizer=SCALED, schedule=replace(BASE.schedule, rate_changes=CHANGES))
# It learns at first; after the cut it all but stands still. Six updates an epoch.
STALLING = replace(
    BASE,
    model=replace(BASE.model, width=0.1, fc_units=32, dropout=0.0),
    optimizer=OptimizerSettings(lr=0.1, batch_size=200, velocity=Velocity.scaled),
    schedule=ScheduleSettings(epochs=14, patience=2, factor=1e-9, cuts=1, latest=(0.6,), stop_when_stalled=True),
    augmentation=AugmentationSettings(random_crop=False, reflect=False, colour_std=0.0),
)
CASES = {
    "scaled": replace(BASE, optimizer=SCALED),
    "unscaled": replace(CHANGING, optimizer=BASE.optimizer),
    "changing": CHANGING,
    "clipped": replace(CHANGING, optimizer=replace(SCALED, clip_norm=0.05)),
    "stalling": STALLING,
    "mean image": replace(
        BASE,
        optimizer=replace(SCALED, lr=1e-4),
        augmentation=AugmentationSettings(normalisation=Normalisation.mean_image, colour_until=0.4),
    ),
}


@dataclass(frozen=True)
class Undisturbed:
    spec: StageSpec
    result: StageResult

    @property
    def last(self) -> Contents:
        return read_checkpoint(self.spec.stage_dir / "checkpoints" / self.result.checkpoint)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Undisturbed]:
    """Each case, trained once without interruption."""
    done: dict[str, Undisturbed] = {}
    store = make_store(tmp_path_factory.mktemp("store"))

    def train(case: str) -> Undisturbed:
        if case not in done:
            recipe = replace(CASES[case], lr_scale={"fc8": 2.0})
            spec = make_spec(store, tmp_path_factory.mktemp(case), recipe, checkpoint_updates=100)
            done[case] = Undisturbed(spec, run_stage(spec, never))
        return done[case]

    return train


def state_after(spec: StageSpec, folder: Path, updates: int) -> Contents:
    interrupted(spec, folder, updates)
    return read_checkpoint(folder / "checkpoints" / f"step-{updates:08d}")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("every", [1, pytest.param(2, marks=pytest.mark.soak), 3])
def test_changing_stage_stopped_often_is_the_same(
    trained: Callable[[str], Undisturbed], tmp_path: Path, case: str, every: int
) -> None:
    whole = trained(case)
    result, stops = run_in_pieces(replace(whole.spec, stage_dir=tmp_path), every)
    assert stops >= whole.result.num_updates // every
    assert result.checkpoint_sha256 == whole.result.checkpoint_sha256
    again = read_checkpoint(tmp_path / "checkpoints" / result.checkpoint)
    assert all(np.array_equal(again.optimizer[name], value) for name, value in whole.last.optimizer.items())
    assert again.state == whole.last.state


@pytest.mark.parametrize("step", [2, 4, 8], ids=["under warm-up", "at a cut", "at a thaw"])
def test_scaled_velocity_without_its_rates_ends_otherwise(
    trained: Callable[[str], Undisturbed], tmp_path: Path, step: int
) -> None:
    whole = trained("changing")
    saved = state_after(whole.spec, tmp_path / "whole", step)
    forged = {**saved.state["train"], "rates": []}
    folder = tmp_path / "forged"
    about = {"stage_hash": whole.spec.stage_hash}
    write_checkpoint(folder / "checkpoints", step, saved.model, saved.optimizer, {"train": forged}, about)
    result = run_stage(replace(whole.spec, stage_dir=folder), never)
    assert result.checkpoint_sha256 != whole.result.checkpoint_sha256


def test_frozen_layer_moves_nothing_until_it_thaws(trained: Callable[[str], Undisturbed], tmp_path: Path) -> None:
    whole = trained("changing")
    at = {step: state_after(whole.spec, tmp_path / str(step), step) for step in (2, 3, 7, 8, 9)}
    for part in ("weight", "bias"):
        name = f"conv1.{part}"
        for step in (7, 8):
            assert np.array_equal(at[step].model[name], at[3].model[name])
            assert np.array_equal(at[step].optimizer[name], at[3].optimizer[name])
        for step in (2, 9):
            assert not np.array_equal(at[step].model[name], at[3].model[name])
            assert not np.array_equal(at[step].optimizer[name], at[3].optimizer[name])
    assert not np.array_equal(at[8].model["conv2.weight"], at[3].model["conv2.weight"])


def test_stalled_stage_ends_early_and_says_how_many_updates_it_made(trained: Callable[[str], Undisturbed]) -> None:
    whole = trained("stalling")
    schedule = whole.last.state["train"]["schedule"]
    assert schedule["epochs"] < STALLING.schedule.epochs
    assert (schedule["cuts"], schedule["epochs_since_best"]) == (1, 2)
    assert whole.result.num_updates == 6 * schedule["epochs"]
    assert whole.last.checkpoint.step == whole.result.num_updates
    # Again from its last checkpoint, as after a kill before DONE.json: nothing is trained any more.
    again = run_stage(whole.spec, never)
    assert again == replace(whole.result, resumed_from=whole.result.num_updates)


def test_rates_that_leave_nothing_to_train_are_refused(trained: Callable[[str], Undisturbed], tmp_path: Path) -> None:
    change = RateChange(after_updates=6, layers={"body": 0.0, "head": 0.0})
    schedule = replace(BASE.schedule, rate_changes={"late": change})
    spec = replace(trained("scaled").spec, recipe=replace(BASE, schedule=schedule), stage_dir=tmp_path)
    with pytest.raises(ConfigError, match="from update 6 on no layer is left to train"):
        run_stage(spec, never)
