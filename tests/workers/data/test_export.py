"""Sheets show the pixels of the store, and what the net is fed, as they are."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from workers.data import export as contact_sheet
from workers.data.export import Band, Tile, draw, prepared_sheet
from workers.data.loading import Windows, crop, pixel_statistics, to_input
from workers.data.store import open_store
from workers.settings import AugmentationSettings, ModelSettings, Normalisation, ScheduleSettings, TrainingSettings
from workers.training import augmented, run_stage
from workers.training.augmented import augmented_sheet, to_pixels

SEEN = TrainingSettings(model=ModelSettings(input_size=16, conv1_kernel=3, conv1_stride=1))


@pytest.fixture
def digits(digits_store):
    return open_store(digits_store)


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def tiles_of(monkeypatch: pytest.MonkeyPatch, module: object) -> list[Band]:
    """The bands that a sheet is drawn of."""
    found: list[Band] = []

    def watched(bands: list[Band], columns: int) -> bytes:
        found.extend(bands)
        return draw(bands, columns)

    monkeypatch.setattr(module, "draw", watched)
    return found


def test_draw_tile_shows_its_pixels_on_a_transparent_sheet():
    tile = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    sheet = opened(draw([Band("title", [Tile(tile, "a caption that is far too long for one tile of a sheet")])], 1))
    pixels = np.asarray(sheet)
    assert pixels[0, 0, 3] == 0
    shown = pixels[30 : 30 + 112, 8 : 8 + 112]
    np.testing.assert_array_equal(shown[2::4, 2::4, :3], tile)
    assert (shown[..., 3] == 255).all()


def test_prepared_sheet_shows_every_split_and_class_by_name(digits, monkeypatch):
    bands = tiles_of(monkeypatch, contact_sheet)
    png = prepared_sheet(digits)
    assert [band.title.split(":")[0] for band in bands] == ["train", "dev", "val", "test"]
    assert f"{digits.counts['train']:,} in all" in bands[0].title
    for split, band in zip(digits.counts, bands, strict=True):
        images, labels = digits.images(split), digits.labels(split)
        assert labels is not None
        assert {tile.caption for tile in band.tiles} == set(digits.classes)
        for tile in band.tiles:
            of_class = images[np.flatnonzero(labels == digits.classes.index(tile.caption))]
            assert (of_class == tile.pixels).all(axis=(1, 2, 3)).any()
    assert png == prepared_sheet(digits)


@pytest.mark.parametrize("normalisation", list(Normalisation))
def test_to_pixels_undoes_normalisation_exactly(digits, normalisation):
    statistics = pixel_statistics(digits, AugmentationSettings(normalisation=normalisation))
    windows = Windows(np.array([[0, 2], [1, 1]]), torch.tensor([True, False]))
    pixels = crop(digits.images("train"), np.array([3, 4]), windows.offsets, 16)
    inputs = to_input(torch.from_numpy(pixels), statistics, None, windows)
    pixels[0] = pixels[0, :, ::-1]
    np.testing.assert_array_equal(to_pixels(inputs, statistics, windows), pixels)


def test_augmented_sheet_shows_windows_of_the_image_beside_them(digits, monkeypatch):
    bands = tiles_of(monkeypatch, augmented)
    settings = TrainingSettings(model=SEEN.model, augmentation=AugmentationSettings(colour_std=0, reflect=False))
    augmented_sheet(digits, settings, seed=5)
    (band,) = bands
    whole = None
    for tile in band.tiles:
        if not tile.caption.startswith("epoch"):
            whole = tile.pixels
            continue
        assert whole is not None
        windows = [whole[top : top + 16, left : left + 16] for top in range(3) for left in range(3)]
        assert any(np.array_equal(tile.pixels, window) for window in windows)


def test_augmented_sheet_shifts_colours_when_training_does(digits, monkeypatch):
    augmentation = AugmentationSettings(colour_std=2.0, colour_until=0.5, random_crop=False, reflect=False)
    settings = TrainingSettings(model=SEEN.model, augmentation=augmentation, schedule=ScheduleSettings(epochs=4))
    bands = tiles_of(monkeypatch, augmented)
    augmented_sheet(digits, settings, seed=5)
    (band,) = bands
    _, *seen = band.tiles[:5]
    plain = band.tiles[0].pixels[1:17, 1:17]
    assert [np.array_equal(tile.pixels, plain) for tile in seen] == [False, False, True, True]


def test_run_stage_keeps_the_sheet_of_its_own_draws(tiny_spec):
    run_stage(tiny_spec, lambda: False)
    kept = (tiny_spec.stage_dir / "augmented.png").read_bytes()
    store = open_store(tiny_spec.store)
    assert kept == augmented_sheet(store, tiny_spec.recipe, tiny_spec.seed)
    assert kept != augmented_sheet(store, tiny_spec.recipe, tiny_spec.seed + 1)
