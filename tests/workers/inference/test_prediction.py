"""Ten-crop: the published offsets, reflections only where allowed, rows that are probabilities."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import stages
import torch
from PIL import Image
from stages import never
from torch import Tensor, nn

from workers.data.loading import PixelStatistics
from workers.data.store import open_store
from workers.errors import CheckFailed, Stopped, StorageError
from workers.inference import load_member, mean_over_crops, predict, predict_images, prediction
from workers.inference.ten_crop import TrainedMember
from workers.protocol import Numerics, PredictSpec
from workers.settings import AugmentationSettings, Crops, ModelSettings, Recipe


class FirstPixel(nn.Module):
    """Logits that say which window was seen: the value of its top-left pixel, against zero."""

    def forward(self, images: Tensor) -> Tensor:
        seen = images[:, 0, 0, 0]
        return torch.stack([seen, torch.zeros_like(seen)], dim=1)


def member(reflect: bool, size: int = 4) -> TrainedMember:
    settings = Recipe(model=ModelSettings(input_size=size), augmentation=AugmentationSettings(reflect=reflect))
    plain = PixelStatistics(torch.zeros(3), torch.full((3,), 1 / 255), torch.eye(3))
    return TrainedMember(FirstPixel(), plain, settings, Numerics(), "step-00000001", "")


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond `num_bytes`: the nearest to a full disk that needs no disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("crops", [Crops.ten, Crops.centre, Crops.flip])
def test_crops_are_the_mean_probability_over_the_published_windows(reflect, crops):
    image = np.random.default_rng(0).integers(0, 4, (1, 6, 6, 3), dtype=np.uint8)
    corners = [(0, 0), (0, 2), (1, 1), (2, 0), (2, 2)] if crops is Crops.ten else [(1, 1)]
    seen = [float(image[0, top, left, 0]) for top, left in corners]
    if reflect and crops is not Crops.centre:
        seen += [float(image[0, top, left + 3, 0]) for top, left in corners]
    expected = np.mean([1 / (1 + np.exp(-value)) for value in seen])
    probabilities = mean_over_crops(member(reflect), image, crops)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities[0], [expected, 1 - expected], rtol=1e-6)


@pytest.mark.parametrize("crops", [Crops.ten, Crops.centre, Crops.flip])
def test_crops_of_whole_images_are_those_of_their_centre_squares_to_the_bit(crops):
    generator = np.random.default_rng(1)
    whole = [generator.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in [(8, 13), (21, 8), (8, 8), (9, 8)]]
    squares = np.stack([whole[0][:, 2:10], whole[1][6:14], whole[2], whole[3][:8]])
    wanted = mean_over_crops(member(True, 6), squares, crops)
    np.testing.assert_array_equal(mean_over_crops(member(True, 6), whole, crops), wanted)


# For windows of 14: the image's shape at each scale, and the windows' tops and lefts.
LANDSCAPE = {
    (14, 21): [(0, 0), (0, 3), (0, 7)],
    (16, 24): [(1, 0), (1, 5), (1, 10)],
    (18, 27): [(2, 0), (2, 6), (2, 13)],
    (20, 30): [(3, 0), (3, 8), (3, 16)],
    (22, 33): [(4, 0), (4, 9), (4, 19)],
}
PORTRAIT = {(across, down): [(left, top) for top, left in places] for (down, across), places in LANDSCAPE.items()}
SQUARE = {(14, 14): [(0, 0)], (16, 16): [(1, 1)], (18, 18): [(2, 2)], (20, 20): [(3, 3)], (22, 22): [(4, 4)]}


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize(("shape", "scales"), [((16, 24), LANDSCAPE), ((24, 16), PORTRAIT), ((16, 16), SQUARE)])
def test_five_scales_are_the_mean_probability_over_windows_of_pillows_scaling(reflect, shape, scales):
    # Dark, since the member's logits are levels: brighter ones would all be certain.
    image = np.random.default_rng(2).integers(0, 5, (*shape, 3), dtype=np.uint8)
    seen = []
    for (down, across), places in scales.items():
        scaled = np.asarray(Image.fromarray(image).resize((across, down), Image.Resampling.BICUBIC))
        for top, left in places:
            seen += [scaled[top, left, 0]] + [scaled[top, left + 13, 0]] * reflect
    expected = np.mean([1 / (1 + np.exp(-float(value))) for value in seen])
    # Two images, of which the other has another shape and other windows.
    found = mean_over_crops(member(reflect, 14), [np.zeros((18, 16, 3), np.uint8), image], Crops.five_scales)
    assert found.dtype == np.float32 and found[0].tolist() == [0.5, 0.5]
    np.testing.assert_allclose(found[1], [expected, 1 - expected], rtol=1e-6)


@pytest.fixture
def trained(tiny_spec):
    stages.trained(tiny_spec)
    folder, splits = tiny_spec.stage_dir.parent / "predictions", ("val", "test")
    return PredictSpec(
        "base1", tiny_spec.stage_dir, tiny_spec.store, folder, splits, tiny_spec.recipe, tiny_spec.numerics
    )


def test_predictions_are_probabilities_of_every_row_and_say_whose(trained):
    described = {one.split: one for one in predict(trained, never)}
    store = open_store(trained.store)
    for split in ("val", "test"):
        probabilities = np.load(trained.predictions_dir / f"{split}.npy")
        assert probabilities.shape == (store.counts[split], 10)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        written = json.loads((trained.predictions_dir / f"{split}.json").read_text())
        assert written["rows_sha256"] == store.rows_sha256(split) == described[split].rows_sha256
        assert written["data_digest"] == store.digest
    assert described["test"].checkpoint == "step-00000003"


def test_centre_crop_predictions_miss_as_many_as_the_stage_said_of_val(trained):
    predict(replace(trained, crops=Crops.centre), never)
    store = open_store(trained.store)
    labels, guesses = store.labels("val"), np.load(trained.predictions_dir / "val.npy").argmax(axis=1)
    said = json.loads((trained.stage_dir / "DONE.json").read_text())["val_error"]
    assert labels is not None and (guesses != labels).mean() == pytest.approx(said)
    centre = np.load(trained.predictions_dir / "val.npy")
    member = load_member(trained.stage_dir, trained.store, trained.recipe, Numerics())
    ten = predict_images(member, list(store.images("val")), Crops.ten)
    assert not np.allclose(centre, ten, atol=1e-4)


def test_predictions_on_full_storage_are_a_storage_error_and_leave_no_file(trained):
    with pytest.raises(StorageError, match=r"val\.npy"), file_size_limit(1000):
        predict(trained, never)
    assert not list(trained.predictions_dir.iterdir())


def test_predictions_asked_to_stop_end_after_the_block_and_keep_the_splits_that_are_whole(trained):
    store = open_store(trained.store)
    num_blocks = -(-store.counts["val"] // 32)
    asked: list[bool] = []

    def should_stop():
        asked.append(len(asked) > num_blocks)
        return asked[-1]

    with pytest.raises(Stopped, match="test"):
        predict(trained, should_stop)
    assert len(asked) == num_blocks + 2
    assert sorted(path.name for path in trained.predictions_dir.iterdir()) == ["val.json", "val.npy"]


def test_weights_other_than_done_json_names_are_refused(trained):
    path = trained.stage_dir / "DONE.json"
    done = json.loads(path.read_text())
    path.write_text(json.dumps({**done, "checkpoint_sha256": "0" * 64}))
    with pytest.raises(CheckFailed, match=r"DONE\.json"):
        predict(trained, never)


@pytest.mark.parametrize("passing", [True, False])
def test_nan_is_computed_again_once_and_never_written(trained, monkeypatch, caplog, passing):
    undisturbed = [one.sha256 for one in predict(replace(trained, predictions_dir=trained.stage_dir / "first"), never)]
    plain, calls = prediction.mean_over_crops, 0

    def poisoned(*arguments):
        nonlocal calls
        calls += 1
        block = plain(*arguments)
        if calls == 2 or (calls > 2 and not passing):
            block[1, 0] = np.nan
        return block

    monkeypatch.setattr(prediction, "mean_over_crops", poisoned)
    name = open_store(trained.store).rows("val")[32 + 1]
    if passing:
        assert [one.sha256 for one in predict(trained, never)] == undisturbed
        assert f"val, image {name}" in caplog.text
    else:
        with pytest.raises(CheckFailed, match=f"val, image {name}: not finite"):
            predict(trained, never)
        assert calls == 3
        assert not list(trained.predictions_dir.glob("*"))
