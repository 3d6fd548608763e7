"""Draws of an epoch depend on (seed, epoch) alone; crops, reflections and colour do what their names say."""

import numpy as np
import pytest
import torch

from workers.data.loading.augment import PixelStatistics, crop, draw_epoch, to_input
from workers.settings.training import AugmentationSettings

DEFAULT = AugmentationSettings()
PLAIN = PixelStatistics(mean=torch.zeros(3), std=torch.ones(3), components=torch.eye(3))


def test_draws_same_seed_and_epoch_are_equal_and_others_differ() -> None:
    first, again = draw_epoch(5, 2, 100, 8, DEFAULT), draw_epoch(5, 2, 100, 8, DEFAULT)
    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in ("order", "offsets", "colour"))
    for other in (draw_epoch(5, 3, 100, 8, DEFAULT), draw_epoch(6, 2, 100, 8, DEFAULT)):
        assert not np.array_equal(first.order, other.order)
        assert not np.array_equal(first.offsets, other.offsets)


def test_order_visits_every_image_once() -> None:
    assert sorted(draw_epoch(0, 0, 1000, 8, DEFAULT).order) == list(range(1000))


def test_offsets_reach_both_ends_of_the_margin() -> None:
    offsets = draw_epoch(0, 0, 5000, 8, DEFAULT).offsets
    assert offsets.min() == 0
    assert offsets.max() == 8


def test_switched_off_augmentation_is_the_centre_crop_unreflected() -> None:
    draws = draw_epoch(0, 0, 50, 8, AugmentationSettings(random_crop=False, reflect=False, colour_std=0))
    assert (draws.offsets == 4).all()
    assert not draws.flips.any()
    assert not draws.colour.any()


def test_crop_cuts_the_window_and_reflects_left_to_right() -> None:
    image = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(1, 6, 6, 3)
    offsets = np.array([[1, 2]])
    plain = crop(image, np.array([0]), offsets, np.array([False]), 4)
    assert np.array_equal(plain[0], image[0, 1:5, 2:6])
    assert np.array_equal(crop(image, np.array([0]), offsets, np.array([True]), 4)[0], plain[0, :, ::-1])


@pytest.mark.parametrize("size", [1, 5, 104, 120])
def test_crop_reflected_of_any_size_is_plain_indexing_and_leaves_the_image(size: int) -> None:
    image = np.random.default_rng(size).integers(0, 256, (1, size + 2, size + 2, 3), dtype=np.uint8)
    before = image.copy()
    reflected = crop(image, np.array([0]), np.array([[2, 1]]), np.array([True]), size)
    np.testing.assert_array_equal(reflected[0], before[0, 2:, 1:-1][:, ::-1])
    np.testing.assert_array_equal(image, before)


def test_crops_of_a_batch_are_those_of_its_images_one_by_one() -> None:
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (5, 9, 9, 3), dtype=np.uint8)
    images.flags.writeable = False  # As a mapped store is.
    chosen, offsets = generator.integers(0, 5, 12), generator.integers(0, 4, (12, 2))
    flips = generator.random(12) < 0.5
    for index, pixels in enumerate(crop(images, chosen, offsets, flips, 6)):
        (top, left), step = offsets[index], -1 if flips[index] else 1
        assert np.array_equal(pixels, images[chosen[index], top : top + 6, left : left + 6][:, ::step])


def test_input_is_normalised_by_channel() -> None:
    statistics = PixelStatistics(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 0.2]), torch.eye(3))
    pixels = np.full((1, 2, 2, 3), 51, dtype=np.uint8)
    expected = torch.tensor([0.2, 0.0, -0.5])
    torch.testing.assert_close(to_input(pixels, statistics, None)[0, :, 0, 0], expected)


def test_colour_shift_moves_along_the_components_alike_in_every_pixel() -> None:
    components = torch.tensor([[1.0, 0, 0], [1.0, 2.0, 0], [0, 0, 3.0]])
    statistics = PixelStatistics(torch.zeros(3), torch.ones(3), components)
    pixels = np.random.default_rng(0).integers(0, 255, (1, 4, 4, 3), dtype=np.uint8)
    shifted = to_input(pixels, statistics, np.array([[0.5, 0.0, 1.0]], dtype=np.float32))
    moved = shifted - to_input(pixels, statistics, None)
    torch.testing.assert_close(moved[0, :, 1, 2], torch.tensor([0.5, 0.5, 3.0]))
    torch.testing.assert_close(moved[0, :, 0, 0], moved[0, :, 3, 3])
