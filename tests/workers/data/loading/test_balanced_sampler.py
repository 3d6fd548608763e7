"""The balanced sampler: as many images as before, every class equally often, by (seed, epoch) alone."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_stage import TINY

from workers.data.loading import TrainingBatches, draw_epoch, pixel_statistics
from workers.data.store import open_store
from workers.settings import AugmentationSettings, Sampler

BALANCED = AugmentationSettings(sampler=Sampler.balanced)
LABELS = np.repeat([0, 1, 3], [70, 6, 24])


def order(seed=5, epoch=2, labels=LABELS):
    return draw_epoch(seed, epoch, len(labels), 4, BALANCED, labels).order


@pytest.mark.parametrize("epoch", range(4))
def test_every_class_has_equally_many_images_or_one_more(epoch):
    counts = np.bincount(LABELS[order(epoch=epoch)])
    assert counts.sum() == 100 and counts[2] == 0
    assert sorted(counts[[0, 1, 3]]) == [33, 33, 34]


def test_the_class_that_gets_one_more_is_drawn():
    most = {int(np.bincount(LABELS[order(epoch=epoch)]).argmax()) for epoch in range(30)}
    assert most == {0, 1, 3}


@pytest.mark.parametrize("epoch", range(4))
def test_large_classes_give_each_image_once_and_small_ones_all_of_theirs_equally_often(epoch):
    times = np.bincount(order(epoch=epoch), minlength=100)
    assert times[:70].max() == 1
    assert {int(times[70:76].min()), int(times[70:76].max())} in ({5, 6}, {5}, {6})
    assert set(times[76:].tolist()) == {1, 2}


def test_order_depends_on_seed_and_epoch_alone():
    assert np.array_equal(order(), order())
    assert not np.array_equal(order(), order(epoch=3)) and not np.array_equal(order(), order(seed=6))


def test_classes_are_mixed_and_not_in_turns():
    """Halves of an epoch have near their share of each class."""
    half = LABELS[order()][:50]
    assert np.bincount(half)[[0, 1, 3]].min() > 8


def test_augmentation_is_that_of_the_shuffled_sampler_by_position(tiny_spec):
    """An image that comes twice gets a crop of its own each time."""
    store = open_store(tiny_spec.store)
    settings = replace(TINY.augmentation, reflect=True)
    shuffled, balanced = (
        TrainingBatches(store, pixel_statistics(store, one), one, seed=1, batch_size=50, input_size=16).draw(1, 2)
        for one in (settings, replace(settings, sampler=Sampler.balanced))
    )
    assert np.array_equal(shuffled.windows.offsets, balanced.windows.offsets)
    assert shuffled.windows.flips.equal(balanced.windows.flips) and shuffled.colour.equal(balanced.colour)
    assert not shuffled.labels.equal(balanced.labels)


def test_windows_of_whole_images_lie_inside_the_images_that_the_sampler_chose():
    """Where images differ in shape, a window belongs to the image and not to its place in the epoch."""
    margins = np.stack([LABELS, 5 * (3 - LABELS)], axis=1)
    drawn = draw_epoch(5, 2, len(LABELS), margins, BALANCED, LABELS)
    assert (drawn.offsets >= 0).all() and (drawn.offsets <= margins[drawn.order]).all()
    assert (drawn.offsets.max(axis=0) == margins.max(axis=0)).all()
    centred = draw_epoch(5, 2, len(LABELS), margins, replace(BALANCED, random_crop=False), LABELS)
    assert np.array_equal(centred.offsets, margins[centred.order] // 2)


def test_a_balanced_sampler_of_windows_is_refused():
    with pytest.raises(ValueError, match=r"sampler=balanced: .*give shuffle_window=0"):
        AugmentationSettings(sampler=Sampler.balanced, shuffle_window=1000)
