"""Draws of an epoch depend on (seed, epoch) alone; crops, reflections and colour do what their names say."""

import numpy as np
import pytest

from workers.data.loading import Windows, crop, draw_epoch
from workers.settings import AugmentationSettings

DEFAULT = AugmentationSettings()


def test_draws_same_seed_and_epoch_are_equal_and_others_differ():
    first, again = draw_epoch(5, 2, 100, 8, DEFAULT), draw_epoch(5, 2, 100, 8, DEFAULT)
    assert (first.offsets.min(), first.offsets.max()) == (0, 8)
    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in ("order", "offsets", "colour"))
    for other in (draw_epoch(5, 3, 100, 8, DEFAULT), draw_epoch(6, 2, 100, 8, DEFAULT)):
        assert not np.array_equal(first.order, other.order)
        assert not np.array_equal(first.offsets, other.offsets)


def test_switched_off_augmentation_is_the_centre_crop_unreflected():
    draws = draw_epoch(0, 0, 50, 8, AugmentationSettings(random_crop=False, reflect=False, colour_std=0))
    assert (draws.offsets == 4).all()
    assert not draws.flips.any()
    assert not draws.colour.any()


@pytest.mark.parametrize("size", [1, 5, 6, 104, 120])
def test_crops_of_a_batch_are_those_of_its_images_one_by_one(size):
    generator = np.random.default_rng(size)
    images = generator.integers(0, 256, (5, size + 3, size + 3, 3), dtype=np.uint8)
    images.flags.writeable = False  # As a mapped store is.
    chosen, offsets = generator.integers(0, 5, 12), generator.integers(0, 4, (12, 2))
    flips = generator.random(12) < 0.5
    for index, pixels in enumerate(crop(images, chosen, Windows(offsets, flips), size)):
        (top, left), step = offsets[index], -1 if flips[index] else 1
        assert np.array_equal(pixels, images[chosen[index], top : top + size, left : left + size][:, ::step])
