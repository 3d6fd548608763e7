"""Batches of a JPEG store: the order, crops and labels of the raw one, and pixels near to its."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from listed import folder, store_of
from pictures import encoded, smooth, write_tree

from workers.data.loading import TrainingBatches, centre_batches, pixel_statistics
from workers.data.store import Store
from workers.settings import AugmentationSettings, StoreFormat

SIZE, INPUT = 48, 40


@pytest.fixture
def stores(tmp_path: Path) -> dict[StoreFormat, Store]:
    """Smooth images, as photographs are, in both formats."""
    smoothed = (encoded(smooth(index, SIZE, SIZE, corners=6)) for index in range(60))
    write_tree(
        tmp_path / "images", {f"train/{'abc'[index % 3]}/{index:02}.png": each for index, each in enumerate(smoothed)}
    )
    settings = folder(tmp_path / "images", size=SIZE)
    return {each: store_of(replace(settings, store_format=each), tmp_path / "stores") for each in StoreFormat}


def epochs(store: Store, statistics_of: Store) -> TrainingBatches:
    settings = AugmentationSettings()
    return TrainingBatches(
        store, pixel_statistics(statistics_of, settings), settings, seed=3, batch_size=16, input_size=INPUT
    )


def test_jpeg_store_gives_the_same_batches_but_for_what_jpeg_loses(stores: dict[StoreFormat, Store]) -> None:
    raw = stores[StoreFormat.raw]
    ours, theirs = (epochs(stores[each], raw) for each in (StoreFormat.jpeg, StoreFormat.raw))
    for epoch in (0, 1):
        for index in range(theirs.per_epoch):
            ours_now, theirs_now = ours.draw(epoch, index), theirs.draw(epoch, index)
            assert torch.equal(ours_now.labels, theirs_now.labels)
            assert not torch.equal(ours_now.images, theirs_now.images)
            # In standard deviations of the pixels; another image, or another crop of it, would be about one away.
            assert (ours_now.images - theirs_now.images).abs().mean() < 0.15
    shifted = theirs.draw(0, 0).images.roll(4, dims=3)
    assert (shifted - ours.draw(0, 0).images).abs().mean() > 0.3, "the bound would not see a wrong crop"


def test_centre_crops_of_a_jpeg_store_are_those_of_the_raw_one(stores: dict[StoreFormat, Store]) -> None:
    raw = stores[StoreFormat.raw]
    statistics = pixel_statistics(raw, AugmentationSettings())
    (ours,), (theirs,) = (
        tuple(centre_batches(stores[each], "val", statistics, INPUT)) for each in (StoreFormat.jpeg, StoreFormat.raw)
    )
    assert torch.equal(ours.labels, theirs.labels)
    assert 0 < (ours.images - theirs.images).abs().mean() < 0.15
