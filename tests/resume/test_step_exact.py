"""A stage that is interrupted at any update and resumed ends with the same bits and the same metrics."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored import read_checkpoint
from tiny_stage import TINY, course, interrupted, make_spec, make_store, never, run_in_pieces

from workers.errors import Diverged
from workers.protocol import StageResult, StageSpec
from workers.storage.checkpoint import write_checkpoint
from workers.training.stage import run_stage


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> StageSpec:
    store = make_store(tmp_path_factory.mktemp("store"))
    return make_spec(store, tmp_path_factory.mktemp("undisturbed"), checkpoint_updates=4)


@pytest.fixture(scope="module")
def undisturbed(spec: StageSpec) -> StageResult:
    return run_stage(spec, never)


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_stage_stopped_every_few_updates_ends_with_the_same_bits(
    spec: StageSpec, undisturbed: StageResult, tmp_path: Path, every: int
) -> None:
    result, stops = run_in_pieces(replace(spec, stage_dir=tmp_path), every)
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
        if next(calls) == 5:
            raise Killed
        return False

    with pytest.raises(Killed):
        run_stage(replace(spec, stage_dir=tmp_path), die)
    result = run_stage(replace(spec, stage_dir=tmp_path, attempt=1), never)
    assert 0 < result.resumed_from < 5
    assert result.checkpoint_sha256 == undisturbed.checkpoint_sha256
    assert course(tmp_path) == course(spec.stage_dir)


@pytest.mark.parametrize("lost", ["momentum", "schedule", "step"])
def test_resume_without_a_part_of_the_state_ends_with_other_bits(
    spec: StageSpec, undisturbed: StageResult, tmp_path: Path, lost: str
) -> None:
    saved = read_checkpoint(interrupted(spec, tmp_path, 8).stage_dir / "checkpoints" / "step-00000008")
    state, optimizer = saved.state["train"], saved.optimizer
    if lost == "momentum":
        optimizer = {name: np.zeros_like(value) for name, value in optimizer.items()}
    elif lost == "schedule":
        state["schedule"] = {**state["schedule"], "cuts": state["schedule"]["cuts"] + 1}
    else:
        state["step"] -= 1
    forged = tmp_path / "forged"
    about = {"stage_hash": spec.stage_hash}
    write_checkpoint(forged / "checkpoints", state["step"], saved.model, optimizer, {"train": state}, about)
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
    wild = replace(TINY, optimizer=replace(TINY.optimizer, lr=1e30))
    with pytest.raises(Diverged, match=r"update \d+"):
        run_stage(replace(spec, recipe=wild, stage_dir=tmp_path, checkpoint_updates=1), never)
    for folder in (tmp_path / "checkpoints").iterdir():
        read_checkpoint(folder)
