"""A stage that is interrupted at any update and resumed ends with the same bits and the same metrics."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored import read_checkpoint

from workers.data.store.preparation import prepare
from workers.errors import Diverged, Stopped
from workers.protocol import Numerics, StageResult, StageSpec
from workers.settings.dataset import DatasetSettings, Source
from workers.settings.training import (
    AugmentationSettings,
    KeptCheckpoint,
    ModelSettings,
    OptimizerSettings,
    Recipe,
    ScheduleSettings,
)
from workers.storage.checkpoint import write_checkpoint
from workers.training.stage import run_stage

SETTINGS = Recipe(
    model=ModelSettings(input_size=16, width=0.05, conv1_kernel=3, conv1_stride=1, conv1_padding=1, fc_units=16),
    optimizer=OptimizerSettings(lr=0.02, batch_size=300),
    schedule=ScheduleSettings(epochs=3, patience=1, warmup_updates=4),
    augmentation=AugmentationSettings(reflect=False),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(DatasetSettings(source=Source.digits, size=18), tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def spec(store: Path, tmp_path_factory: pytest.TempPathFactory) -> StageSpec:
    return StageSpec(
        member="base1",
        stage="train",
        seed=11,
        recipe=SETTINGS,
        store=store,
        stage_dir=tmp_path_factory.mktemp("undisturbed"),
        init_dir=None,
        numerics=Numerics(),
        checkpoint_updates=4,
        keep=KeptCheckpoint.last,
        stage_hash="h",
    )


@pytest.fixture(scope="module")
def undisturbed(spec: StageSpec) -> StageResult:
    return run_stage(spec, never)


def never() -> bool:
    return False


def after(updates: int) -> Callable[[], bool]:
    """Asks to stop once `updates` updates were made in this attempt."""
    made = iter(range(1, 10_000))
    return lambda: next(made) >= updates


def course(stage_dir: Path) -> list[tuple[int, dict[str, float]]]:
    points = [json.loads(line) for line in (stage_dir / "metrics.jsonl").read_text().splitlines()]
    timing = {"images_per_second", "data_wait"}
    return [(p["step"], {k: v for k, v in p["metrics"].items() if k not in timing}) for p in points]


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_stage_stopped_every_few_updates_ends_with_the_same_bits(
    spec: StageSpec, undisturbed: StageResult, tmp_path: Path, every: int
) -> None:
    interrupted, stops, result = replace(spec, stage_dir=tmp_path), 0, None
    while result is None:
        try:
            result = run_stage(interrupted, after(every))
        except Stopped:
            stops += 1
    assert stops >= undisturbed.num_updates // every
    assert result.checkpoint_sha256 == undisturbed.checkpoint_sha256
    assert course(tmp_path) == course(spec.stage_dir)


def test_stage_killed_between_checkpoints_redoes_from_the_last_one(
    spec: StageSpec, undisturbed: StageResult, tmp_path: Path
) -> None:
    class Killed(BaseException):
        """What nothing catches, as SIGKILL."""

    calls = iter(range(1, 100))

    def die() -> bool:
        if next(calls) == 7:
            raise Killed
        return False

    with pytest.raises(Killed):
        run_stage(replace(spec, stage_dir=tmp_path), die)
    result = run_stage(replace(spec, stage_dir=tmp_path, attempt=1), never)
    assert 0 < result.resumed_from < 7
    assert result.checkpoint_sha256 == undisturbed.checkpoint_sha256
    assert course(tmp_path) == course(spec.stage_dir)


@pytest.mark.parametrize("lost", ["momentum", "schedule", "step"])
def test_resume_without_a_part_of_the_state_ends_with_other_bits(
    spec: StageSpec, undisturbed: StageResult, tmp_path: Path, lost: str
) -> None:
    with pytest.raises(Stopped):
        run_stage(replace(spec, stage_dir=tmp_path), after(8))
    checkpoints = tmp_path / "checkpoints"
    saved = read_checkpoint(checkpoints / "step-00000008")
    state = saved.state["train"]
    optimizer = saved.optimizer
    if lost == "momentum":
        optimizer = {name: np.zeros_like(value) for name, value in optimizer.items()}
    elif lost == "schedule":
        state["schedule"] = {**state["schedule"], "cuts": state["schedule"]["cuts"] + 1}
    else:
        state["step"] -= 1
    forged = tmp_path / "forged"
    write_checkpoint(
        forged / "checkpoints", state["step"], saved.model, optimizer, {"train": state}, {"stage_hash": spec.stage_hash}
    )
    result = run_stage(replace(spec, stage_dir=forged), never)
    assert result.checkpoint_sha256 != undisturbed.checkpoint_sha256


def test_best_and_last_two_checkpoints_are_kept(spec: StageSpec, undisturbed: StageResult) -> None:
    kept = sorted(path.name for path in (spec.stage_dir / "checkpoints").iterdir())
    assert kept[-1] == undisturbed.checkpoint
    assert 2 <= len(kept) <= 3


def test_other_seed_gives_other_weights(spec: StageSpec, undisturbed: StageResult, tmp_path: Path) -> None:
    result = run_stage(replace(spec, seed=12, stage_dir=tmp_path), never)
    assert result.checkpoint_sha256 != undisturbed.checkpoint_sha256


def test_divergence_names_the_update_and_saves_nothing_poisoned(spec: StageSpec, tmp_path: Path) -> None:
    wild = replace(SETTINGS, optimizer=replace(SETTINGS.optimizer, lr=1e30))
    with pytest.raises(Diverged, match=r"update \d+"):
        run_stage(replace(spec, recipe=wild, stage_dir=tmp_path, checkpoint_updates=1), never)
    for folder in (tmp_path / "checkpoints").iterdir():
        read_checkpoint(folder)
