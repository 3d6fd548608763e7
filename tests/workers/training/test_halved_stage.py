"""A member in two halves is trained, resumed and asked as any other, and shares checkpoints with the grouped one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stages import contents, never, stop_after, trained, weights

from workers.errors import Stopped
from workers.inference import load_member, mean_over_crops, predict, predict_images
from workers.protocol import PredictSpec, StageSpec
from workers.settings import Crops, Layout
from workers.training import run_stage


def laid(spec: StageSpec, layout: Layout, folder: Path) -> StageSpec:
    model = replace(spec.recipe.model, layout=layout, lrn_across_halves=False)
    optimizer = replace(spec.recipe.optimizer, clip_norm=1.0)
    return replace(spec, recipe=replace(spec.recipe, model=model, optimizer=optimizer), stage_dir=folder / layout)


@pytest.fixture
def halved(tiny_spec, tmp_path):
    return laid(tiny_spec, Layout.halves, tmp_path)


@pytest.fixture
def grouped(tiny_spec, tmp_path):
    return laid(tiny_spec, Layout.grouped, tmp_path)


def test_halved_stage_ends_with_the_grouped_ones_weights_to_rounding(halved, grouped):
    ours, theirs = (contents(trained(spec)) for spec in (halved, grouped))
    for mine, other in ((ours.model, theirs.model), (ours.optimizer, theirs.optimizer)):
        assert {name: value.shape for name, value in mine.items()} == {n: value.shape for n, value in other.items()}
        for name, value in other.items():
            np.testing.assert_allclose(mine[name], value, rtol=0, atol=1e-4 * np.abs(value).max())


def test_halved_stage_stopped_at_every_update_ends_with_the_same_bits(halved, tmp_path):
    undisturbed = contents(trained(halved)).checkpoint
    interrupted, stops = replace(halved, stage_dir=tmp_path / "interrupted"), 0
    while stops < undisturbed.step:
        with pytest.raises(Stopped):
            run_stage(interrupted, stop_after(1))
        stops += 1
    assert stops >= 3
    assert contents(trained(interrupted)).checkpoint.model_sha256 == undisturbed.model_sha256


@pytest.mark.parametrize("begun", Layout)
def test_layouts_start_from_each_other(begun, halved, grouped, tmp_path):
    ancestor, spec = (halved, grouped) if begun is Layout.halves else (grouped, halved)
    before = weights(trained(ancestor))
    frozen = ("conv1", "conv2", "conv3", "fc6")
    spec = replace(
        spec,
        stage_dir=tmp_path / "next",
        init_dir=ancestor.stage_dir,
        recipe=replace(spec.recipe, reset=("fc7",), freeze=frozen, lr_scale={"conv4": 0.0}),
    )
    saved = contents(trained(spec))
    kept = {layer for layer in {name.partition(".")[0] for name in before} if layer in (*frozen, "conv4")}
    for name, value in saved.model.items():
        assert np.array_equal(value, before[name]) is (name.partition(".")[0] in kept)
    assert {name.partition(".")[0] for name in saved.optimizer} == {"conv5", "fc7", "fc8"}


def test_halved_member_and_the_grouped_net_predict_alike(halved, grouped, tmp_path):
    trained(halved)
    spec = PredictSpec(
        "base1", halved.stage_dir, halved.store, tmp_path / "predictions", ("val",), halved.recipe, halved.numerics
    )
    (described,) = predict(spec, never)
    ours = np.load(tmp_path / "predictions" / "val.npy")
    assert ours.shape == (described.num_rows, 10)
    np.testing.assert_allclose(ours.sum(axis=1), 1, rtol=0, atol=1e-6)
    images = np.random.default_rng(0).integers(0, 256, (4, 18, 18, 3), dtype=np.uint8)
    both = [
        mean_over_crops(load_member(halved.stage_dir, halved.store, one.recipe, one.numerics), images, Crops.ten)
        for one in (halved, grouped)
    ]
    np.testing.assert_allclose(*both, rtol=0, atol=1e-6)
    member = load_member(halved.stage_dir, halved.store, halved.recipe, halved.numerics)
    new = predict_images(member, list(images), Crops.ten)
    np.testing.assert_array_equal(new, both[0])
