"""Crops, reflections, colour and normalisation of a batch against slow, obvious ones, pixel by pixel in float64."""

import numpy as np
import pytest
from listed import folder, store_of

from workers.data.loading import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TrainingBatches,
    centre_batches,
    draw_epoch,
    pixel_statistics,
)
from workers.data.store import Store
from workers.settings import AugmentationSettings, ColourScale, Normalisation

SIZE = 8
SETTINGS = [
    AugmentationSettings(normalisation=normalisation, colour_scale=scale)
    for normalisation in Normalisation
    for scale in ColourScale
]


@pytest.fixture
def store(plain_tree, tmp_path):
    return store_of(folder(plain_tree, size=10), tmp_path / "stores")


def obvious(image, place, flipped, colour, store: Store, settings: AugmentationSettings, size: int) -> np.ndarray:
    """One crop as it is to reach the net: [3, size, size] float64."""
    top, left = place
    rows, columns = np.mgrid[:size, :size]
    rows, columns = top + rows, left + (size - 1 - columns if flipped else columns)
    seen = image[rows, columns].astype(np.float64)
    shift = np.zeros(3)
    for channel in range(3):
        for component in range(3):
            length = store.eigenvalues[component]
            if settings.colour_scale is ColourScale.root:
                length = length**0.5
            shift[channel] += colour[component] * length * store.eigenvectors[channel][component]
    if settings.normalisation is Normalisation.mean_image:
        seen = seen - store.mean_image()[rows, columns] + 255 * shift
    else:
        imagenet = settings.normalisation is Normalisation.imagenet
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if imagenet else (store.mean, store.std)
        seen = (seen / 255 + shift - np.array(mean)) / np.array(std)
    return seen.transpose(2, 0, 1)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda each: f"{each.normalisation}-{each.colour_scale}")
def test_batches_of_a_store_are_the_obvious_crops_of_their_draws(settings, store):
    batches = TrainingBatches(store, pixel_statistics(store, settings), settings, seed=3, batch_size=7, input_size=SIZE)
    images, labels = store.images("train"), store.labels("train")
    draws = draw_epoch(3, 1, len(images), 10 - SIZE, settings)
    batch = batches.draw(1, 2)
    for index, position in enumerate(range(14, 21)):
        image, (top, left) = draws.order[position], draws.offsets[position].tolist()
        flipped, colour = bool(draws.flips[position]), draws.colour[position]
        wanted = obvious(images[image], (top, left), flipped, colour, store, settings, SIZE)
        np.testing.assert_allclose(batch.images[index], wanted, rtol=1e-5, atol=1e-4)
        assert labels is not None and batch.labels[index] == labels[image]


@pytest.mark.parametrize("normalisation", Normalisation)
def test_centre_crops_are_the_obvious_ones(normalisation, store):
    settings = AugmentationSettings(normalisation=normalisation)
    (batch,) = centre_batches(store, "val", pixel_statistics(store, settings), SIZE)
    for index, image in enumerate(store.images("val")):
        wanted = obvious(image, (1, 1), False, np.zeros(3), store, settings, SIZE)
        np.testing.assert_allclose(batch.images[index], wanted, rtol=1e-5, atol=1e-4)


def test_colour_that_is_off_after_an_epoch_leaves_all_else_as_it_was(store):
    def batches(colour_std, colour_epochs):
        settings = AugmentationSettings(colour_std=colour_std)
        sizes = {"batch_size": 20, "input_size": SIZE, "colour_epochs": colour_epochs}
        made = TrainingBatches(store, pixel_statistics(store, settings), settings, seed=3, **sizes)
        return lambda epoch, index: made.draw(epoch, index).images.numpy()

    always, until_two, never = batches(0.1, None), batches(0.1, 2), batches(0.0, None)
    for epoch in range(4):
        for index in range(3):
            wanted = always if epoch < 2 else never
            assert np.array_equal(until_two(epoch, index), wanted(epoch, index))
            assert not np.array_equal(always(epoch, index), never(epoch, index))
