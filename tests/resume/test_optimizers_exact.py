"""A stage under any optimizer ends with the same bits wherever it was interrupted, and otherwise if state is lost."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from stored import read_checkpoint
from tiny_stage import TINY, interrupted, make_spec, make_store, never, run_in_pieces

from workers.errors import StorageError
from workers.protocol import StageResult, StageSpec
from workers.settings.model import Layout
from workers.settings.training import Decay, OptimizerSettings, RateChange, ScheduleSettings
from workers.storage.checkpoint import Contents, write_checkpoint
from workers.training.stage import run_stage

ADAMW = OptimizerSettings(name="adamw", lr=0.002, weight_decay=0.05, batch_size=400, decay_norms=False)
# The rate rises and falls with every update; conv1 begins to move after five.
COURSE = ScheduleSettings(decay=Decay.one_cycle, epochs=4, warmup_share=0.3, final_lr_share=1e-3)
LATE = replace(COURSE, rate_changes={"late": RateChange(after_updates=5, layers={"conv1": 1.0})})
OPTIMIZERS = {
    "adamw": ADAMW,
    "adam": replace(ADAMW, name="adam", args={"amsgrad": True, "betas": [0.8, 0.99]}),
    "rmsprop": replace(ADAMW, name="rmsprop", args={"momentum": 0.9, "centered": True}),
    "adafactor": replace(ADAMW, name="adafactor"),
    "adagrad": replace(ADAMW, name="adagrad", args={"initial_accumulator_value": 0.1}),
    "asgd": replace(ADAMW, name="asgd", lr=0.02),
    "nadam": replace(ADAMW, name="nadam"),
    "rprop": replace(ADAMW, name="rprop", weight_decay=0.0),
    "nesterov": OptimizerSettings(lr=0.02, batch_size=400, nesterov=True, layer_lr_decay=0.9),
}
HALVES = replace(TINY.model, layout=Layout.halves, lrn_across_halves=False)


@dataclass(frozen=True)
class Undisturbed:
    spec: StageSpec
    result: StageResult

    def after(self, folder: Path, updates: int) -> Contents:
        interrupted(self.spec, folder, updates)
        return read_checkpoint(folder / "checkpoints" / f"step-{updates:08d}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Undisturbed]:
    """Each recipe, trained once without interruption."""
    done: dict[str, Undisturbed] = {}
    store = make_store(tmp_path_factory.mktemp("store"))

    def train(case: str, halved: bool = False) -> Undisturbed:
        name = f"{case}, halved" if halved else case
        if name not in done:
            model = HALVES if halved else TINY.model
            recipe = replace(TINY, optimizer=OPTIMIZERS[case], schedule=LATE, lr_scale={"conv1": 0.0}, model=model)
            spec = make_spec(store, tmp_path_factory.mktemp("stage"), recipe, checkpoint_updates=100)
            done[name] = Undisturbed(spec, run_stage(spec, never))
        return done[name]

    return train


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_stage_stopped_often_ends_with_the_same_bits(
    trained: Callable[..., Undisturbed], tmp_path: Path, case: str
) -> None:
    whole = trained(case)
    every = 2 if case == "adamw" else 4
    result, stops = run_in_pieces(replace(whole.spec, stage_dir=tmp_path), every)
    assert stops >= whole.result.num_updates // every
    assert result.checkpoint_sha256 == whole.result.checkpoint_sha256
    ends = [read_checkpoint(folder / "checkpoints" / result.checkpoint) for folder in (tmp_path, whole.spec.stage_dir)]
    assert ends[0].optimizer.keys() == ends[1].optimizer.keys()
    assert all(np.array_equal(value, ends[1].optimizer[name]) for name, value in ends[0].optimizer.items())


@pytest.mark.parametrize("case", ["adamw", "adafactor"])
def test_net_in_two_halves_resumes_with_the_same_bits(
    trained: Callable[..., Undisturbed], tmp_path: Path, case: str
) -> None:
    whole = trained(case, halved=True)
    result, _ = run_in_pieces(replace(whole.spec, stage_dir=tmp_path), 4)
    assert result.checkpoint_sha256 == whole.result.checkpoint_sha256


def test_checkpoint_names_each_state_of_each_weight_that_has_moved(
    trained: Callable[..., Undisturbed], tmp_path: Path
) -> None:
    early, late = (trained("adamw").after(tmp_path / str(step), step) for step in (4, 8))
    assert not any("conv1." in name for name in early.optimizer)
    keys = ("exp_avg", "exp_avg_sq", "step")
    assert set(late.optimizer) == {f"{key}/{weight}" for key in keys for weight in late.model}
    assert late.optimizer["exp_avg_sq/conv2.weight"].shape == late.model["conv2.weight"].shape
    counts = {weight: float(late.optimizer[f"step/{weight}"]) for weight in ("conv1.weight", "conv2.weight")}
    assert counts == {"conv1.weight": 3.0, "conv2.weight": 8.0}


def test_sgd_s_momentum_has_its_weight_s_name(trained: Callable[..., Undisturbed], tmp_path: Path) -> None:
    saved = trained("nesterov").after(tmp_path, 8)
    assert set(saved.optimizer) == set(saved.model)


@pytest.mark.parametrize("lost", ["exp_avg", "exp_avg_sq", "step"])
def test_resume_without_some_state_ends_otherwise(
    trained: Callable[..., Undisturbed], tmp_path: Path, lost: str
) -> None:
    whole = trained("adamw")
    saved = whole.after(tmp_path / "whole", 8)
    zeroed = {
        name: np.zeros_like(value) if name.startswith(f"{lost}/") else value for name, value in saved.optimizer.items()
    }
    about = {"stage_hash": whole.spec.stage_hash}
    for folder, optimizer in (("forged", zeroed), ("again", saved.optimizer)):
        write_checkpoint(tmp_path / folder / "checkpoints", 8, saved.model, optimizer, dict(saved.state), about)
    ended = {
        folder: run_stage(replace(whole.spec, stage_dir=tmp_path / folder), never) for folder in ("forged", "again")
    }
    assert ended["forged"].resumed_from == ended["again"].resumed_from == 8
    assert ended["forged"].checkpoint_sha256 != whole.result.checkpoint_sha256
    assert ended["again"].checkpoint_sha256 == whole.result.checkpoint_sha256


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("exp_avg_sq/conv2.weight"),
        lambda state: state.clear(),
        lambda state: state.update({"momentum_buffer/conv2.weight": state["exp_avg/conv2.weight"]}),
        lambda state: state.update({"step/conv2.weight": np.zeros(2, np.float32)}),
    ],
    ids=["a state gone", "all gone", "a state of another optimizer", "a count of another shape"],
)
def test_state_of_another_optimizer_is_not_resumed_from(
    trained: Callable[..., Undisturbed], tmp_path: Path, spoil: Callable[[dict[str, np.ndarray]], object]
) -> None:
    whole = trained("adamw")
    saved = whole.after(tmp_path / "whole", 8)
    spoil(saved.optimizer)
    folder = tmp_path / "forged"
    about = {"stage_hash": whole.spec.stage_hash}
    write_checkpoint(folder / "checkpoints", 8, saved.model, saved.optimizer, dict(saved.state), about)
    with pytest.raises(StorageError):
        run_stage(replace(whole.spec, stage_dir=folder), never)
