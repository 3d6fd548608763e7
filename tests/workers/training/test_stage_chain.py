"""A stage takes its ancestor's layers, draws the reset ones anew, and leaves frozen ones alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workers.errors import ConfigError, StorageError
from workers.protocol import StageSpec
from workers.storage.checkpoint import read_checkpoint
from workers.storage.finished import write_finished
from workers.training.stage import run_stage


def weights(stage_dir: Path, checkpoint: str) -> dict[str, np.ndarray]:
    return read_checkpoint(stage_dir / "checkpoints" / checkpoint).model


@pytest.fixture
def ancestor(tiny_spec: StageSpec, turned_store: Path, tmp_path: Path) -> StageSpec:
    spec = replace(tiny_spec, store=turned_store, stage="pretrain", stage_dir=tmp_path / "a" / "pretrain")
    write_finished(spec.stage_dir, "h", run_stage(spec, lambda: False))
    return spec


def ancestor_weights(ancestor: StageSpec) -> dict[str, np.ndarray]:
    newest = max(path.name for path in (ancestor.stage_dir / "checkpoints").iterdir())
    return weights(ancestor.stage_dir, newest)


def test_frozen_layers_keep_the_ancestors_bits_and_reset_ones_do_not(tiny_spec: StageSpec, ancestor: StageSpec) -> None:
    frozen = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6")
    spec = replace(
        tiny_spec, init_dir=ancestor.stage_dir, recipe=replace(tiny_spec.recipe, reset=("fc8",), freeze=frozen)
    )
    after = weights(spec.stage_dir, run_stage(spec, lambda: False).checkpoint)
    before = ancestor_weights(ancestor)
    assert before["fc8.weight"].shape == (40, 16)
    assert after["fc8.weight"].shape == (10, 16)
    for layer in frozen:
        assert np.array_equal(after[f"{layer}.weight"], before[f"{layer}.weight"])
    assert not np.array_equal(after["fc7.weight"], before["fc7.weight"])


def test_learning_rate_factor_zero_moves_nothing_and_decays_nothing(tiny_spec: StageSpec, ancestor: StageSpec) -> None:
    spec = replace(
        tiny_spec,
        init_dir=ancestor.stage_dir,
        recipe=replace(tiny_spec.recipe, reset=("fc8",), lr_scale={"conv1": 0.0}),
    )
    after = weights(spec.stage_dir, run_stage(spec, lambda: False).checkpoint)
    assert np.array_equal(after["conv1.weight"], ancestor_weights(ancestor)["conv1.weight"])
    assert not np.array_equal(after["conv2.weight"], ancestor_weights(ancestor)["conv2.weight"])


def test_sixth_convolution_can_be_added_to_a_five_conv_ancestor(tiny_spec: StageSpec, ancestor: StageSpec) -> None:
    six = replace(tiny_spec.recipe, model=replace(tiny_spec.recipe.model, num_convs=6))
    spec = replace(tiny_spec, recipe=replace(six, reset=("conv6", "fc6", "fc7", "fc8")), init_dir=ancestor.stage_dir)
    assert "conv6.weight" in weights(spec.stage_dir, run_stage(spec, lambda: False).checkpoint)


def test_ancestor_of_another_shape_is_refused_naming_the_layer(tiny_spec: StageSpec, ancestor: StageSpec) -> None:
    with pytest.raises(StorageError, match=r"fc8.*reset"):
        run_stage(replace(tiny_spec, init_dir=ancestor.stage_dir), lambda: False)


def test_unknown_layer_in_freeze_is_refused(tiny_spec: StageSpec) -> None:
    with pytest.raises(ConfigError, match="conv9"):
        run_stage(replace(tiny_spec, recipe=replace(tiny_spec.recipe, freeze=("conv9",))), lambda: False)
