"""The release's chain in small: five convolutions → a sixth and a bottleneck → neither bottleneck nor the old head."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored import read_checkpoint

from workers.protocol import StageSpec
from workers.settings.training import OptimizerSettings
from workers.storage.finished import read_finished, write_finished
from workers.training.stage import run_stage

FIVE = ("conv1", "conv2", "conv3", "conv4", "conv5")
# So small a step that a weight of float32 does not move: what a stage ends with is what it began with.
UNMOVED = OptimizerSettings(lr=1e-30, batch_size=400)


def trained(spec: StageSpec) -> StageSpec:
    write_finished(spec.stage_dir, "h", run_stage(spec, lambda: False))
    return spec


def weights(spec: StageSpec) -> dict[str, np.ndarray]:
    return read_checkpoint(spec.stage_dir / "checkpoints" / read_finished(spec.stage_dir).checkpoint).model


def after(spec: StageSpec, ancestor: StageSpec, name: str, **model: int) -> StageSpec:
    """A stage that starts from `ancestor` and does not move."""
    settings = replace(spec.recipe, model=replace(ancestor.recipe.model, **model), optimizer=UNMOVED)
    folder = spec.stage_dir.parent / name
    return replace(
        spec, stage=name, seed=ancestor.seed + 1, recipe=settings, init_dir=ancestor.stage_dir, stage_dir=folder
    )


@pytest.fixture
def base(tiny_spec: StageSpec) -> StageSpec:
    return trained(tiny_spec)


def same_layers(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> set[str]:
    """Layers whose weights have equal bits in both."""
    shared = {name for name in one.keys() & other.keys() if name.endswith(".weight")}
    equal = {
        name for name in shared if one[name].shape == other[name].shape and one[name].tobytes() == other[name].tobytes()
    }
    return {name.removesuffix(".weight") for name in equal}


def test_chain_copies_to_the_bit_what_is_not_reset_and_draws_the_rest_anew(
    tiny_spec: StageSpec, turned_store: Path, base: StageSpec
) -> None:
    six = replace(after(tiny_spec, base, "fall2009", num_convs=6), store=turned_store)
    six = trained(replace(six, recipe=replace(six.recipe, reset=("conv6", "fc6", "fc7", "head"))))
    assert same_layers(weights(six), weights(base)) == set(FIVE)
    assert weights(six)["fc8.weight"].shape == (40, 16)

    narrow = replace(after(tiny_spec, six, "fall2011", bottleneck=8), store=turned_store)
    narrow = trained(replace(narrow, recipe=replace(narrow.recipe, reset=("fc6", "fc7", "bottleneck", "head"))))
    assert same_layers(weights(narrow), weights(six)) == {*FIVE, "conv6"}
    assert weights(narrow)["bottleneck.weight"].shape == (8, 16)
    assert weights(narrow)["fc8.weight"].shape == (40, 8)

    fine = after(tiny_spec, narrow, "finetune", bottleneck=0)
    fine = trained(replace(fine, recipe=replace(fine.recipe, reset=("head",))))
    assert same_layers(weights(fine), weights(narrow)) == {*FIVE, "conv6", "fc6", "fc7"}
    assert "bottleneck.weight" not in weights(fine)
    assert weights(fine)["fc8.weight"].shape == (10, 16)


def test_bottleneck_is_frozen_and_slowed_by_its_name(tiny_spec: StageSpec, base: StageSpec) -> None:
    narrow = after(tiny_spec, base, "narrow", bottleneck=8)
    ancestor = trained(replace(narrow, recipe=replace(narrow.recipe, reset=("bottleneck", "head"))))
    moving = replace(ancestor.recipe, optimizer=tiny_spec.recipe.optimizer, reset=())
    for name, how in (("frozen", {"freeze": ("bottleneck",)}), ("slowed", {"lr_scale": {"bottleneck": 0.0}})):
        spec = trained(replace(after(tiny_spec, ancestor, name), recipe=replace(moving, **how)))
        assert same_layers(weights(spec), weights(ancestor)) == {"bottleneck"}
