"""Draws of an epoch depend on (seed, epoch) alone; crops, reflections and colour do what their names say."""

import numpy as np
import pytest
import torch

from workers.data.loading import PixelStatistics, Windows, crop, draw_epoch, to_input
from workers.data.loading.augment import scaled_at_once
from workers.kernels import pixels as pixels_kernel
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
    buffer = np.empty((12, size, size, 3), np.uint8)
    assert crop(images, chosen, offsets, size, buffer) is buffer
    for index, pixels in enumerate(buffer):
        top, left = offsets[index]
        assert np.array_equal(pixels, images[chosen[index], top : top + size, left : left + size])


@pytest.mark.parametrize("kernel", ["compiled", "torch"])
def test_images_are_reflected_and_normalised_with_the_same_bits_by_kernel_and_torch(kernel, monkeypatch):
    if kernel == "torch":
        monkeypatch.setattr(pixels_kernel, "_pixels", None)
    generator = np.random.default_rng(0)
    pixels = torch.from_numpy(generator.integers(0, 256, (9, 7, 7, 3), dtype=np.uint8))
    before, flips = pixels.clone(), np.array([False, True, True, False, False, True, True, True, False])
    colour = torch.from_numpy(generator.normal(size=(9, 3)).astype(np.float32))
    statistics = PixelStatistics(torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3]), torch.eye(3))
    found = to_input(pixels, statistics, colour, Windows(np.zeros((9, 2), np.int64), torch.from_numpy(flips)))
    assert torch.equal(pixels, before), "the buffer was changed"
    assert found.is_contiguous(memory_format=torch.channels_last)
    for index, flipped in enumerate(flips.tolist()):
        seen = pixels[index].flip(1) if flipped else pixels[index]
        factor, offset = 1 / (255 * statistics.std), -statistics.mean / statistics.std + colour[index] / statistics.std
        assert torch.equal(found[index].permute(1, 2, 0), seen.float() * factor + offset)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
def test_one_operator_scales_bytes_to_either_precision(dtype, bound):
    """The form for GPUs, here on the CPU."""
    generator = np.random.default_rng(0)
    pixels = torch.from_numpy(generator.integers(0, 256, (4, 5, 18), dtype=np.uint8))
    scale = torch.from_numpy(generator.normal(size=18).astype(np.float32))
    offsets = torch.from_numpy(generator.normal(size=(4, 1, 18)).astype(np.float32))
    found = torch.empty(4, 5, 18, dtype=dtype)
    scaled_at_once(pixels, scale, offsets, found)
    wanted = pixels.double() * scale.double() + offsets.double()
    assert float((found.double() - wanted).abs().max() / wanted.abs().max()) < bound
