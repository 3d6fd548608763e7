"""A refit trains a first pass's recipe on train, dev and val, for as many epochs as it is told, and looks at none."""

from dataclasses import replace

import numpy as np
import pytest
from stages import never
from tiny_stage import TINY, course, make_spec, run_in_pieces

from workers.data.loading import TrainingBatches, pixel_statistics
from workers.data.store import open_store
from workers.settings import Decay
from workers.training import run_stage

SPLITS = ("train", "dev", "val")


@pytest.fixture(scope="module")
def first(digits_store, tmp_path_factory):
    """A first pass of four epochs."""
    spec = make_spec(digits_store, tmp_path_factory.mktemp("first"), checkpoint_updates=100)
    return run_stage(spec, never), course(spec.stage_dir)


@pytest.fixture
def refit(digits_store, tmp_path):
    schedule = replace(TINY.schedule, decay=Decay.fixed, cuts=1, latest=(0.25,))
    recipe = replace(TINY, schedule=schedule, refit="train")
    return replace(make_spec(digits_store, tmp_path / "refit", recipe, checkpoint_updates=3), until=2)


def test_result_has_the_best_epoch_and_the_cuts_of_a_pass_that_keeps_its_last(first):
    result, points = first
    ends = [metrics for _, metrics in points if "lr" in metrics]
    errors = [metrics["dev/top1_error"] for metrics in ends]
    assert result.best_epochs == 1 + int(np.argmin(errors))
    rates = [metrics["lr"] for metrics in ends]
    cut_before = [epoch for epoch in range(1, 4) if rates[epoch] < rates[epoch - 1] / 2]
    assert [epoch for epoch in result.cut_at if epoch < 4] == cut_before != []


def test_refit_makes_its_epochs_on_all_images_at_the_rates_of_a_whole_pass(refit):
    result = run_stage(refit, never)
    # Four batches of at most 400 of 1438 images; 1166 alone would be three.
    assert (result.num_updates, result.dev_error, result.val_error, result.best_epochs) == (8, None, None, None)
    ends = [metrics for _, metrics in course(refit.stage_dir) if "lr" in metrics]
    assert [metrics["lr"] for metrics in ends] == pytest.approx([0.02, 0.002])
    assert not [name for metrics in ends for name in metrics if name.startswith(("dev/", "val/"))]


def test_refit_stopped_often_ends_with_the_same_bits_and_on_train_alone_with_others(refit, tmp_path):
    undisturbed = run_stage(refit, never)
    result, stops = run_in_pieces(replace(refit, stage_dir=tmp_path / "pieces"), 3)
    assert (stops, result.checkpoint_sha256) == (2, undisturbed.checkpoint_sha256)
    alone = replace(refit, stage_dir=tmp_path / "alone", recipe=replace(refit.recipe, refit=None))
    assert run_stage(alone, never).checkpoint_sha256 != undisturbed.checkpoint_sha256


@pytest.mark.parametrize("window", [0, 1])
def test_batches_of_several_splits_hold_each_image_once(digits_store, window):
    store = open_store(digits_store)
    images, labels = store.images(*SPLITS), store.labels(*SPLITS)
    assert np.array_equal(images[:], np.concatenate([store.images(split)[:] for split in SPLITS]))
    assert np.array_equal(labels, np.concatenate([store.labels(split) for split in SPLITS]))
    settings = replace(TINY.augmentation, shuffle_window=window)
    statistics = pixel_statistics(store, settings)
    batches = TrainingBatches(store, statistics, settings, seed=1, batch_size=400, input_size=18, splits=SPLITS)
    drawn = [batches.draw(0, index) for index in range(batches.per_epoch)]
    seen = np.concatenate([batch.pixels.numpy() for batch in drawn]).reshape(len(images), -1)
    assert np.array_equal(np.unique(seen, axis=0), np.unique(images[:].reshape(len(images), -1), axis=0))
    assert sorted(np.concatenate([batch.labels.numpy() for batch in drawn])) == sorted(labels)
