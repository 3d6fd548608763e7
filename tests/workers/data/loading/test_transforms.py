"""torchvision's transforms act on each image as under a seed of its own, whoever draws it and beside whatever."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from listed import folder, store_of
from pictures import encoded, noise, write_tree
from scipy import stats
from tiny_stage import make_store
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from workers.data.loading import TrainingBatches, Transforms, pixel_statistics, transforms
from workers.data.store import open_store
from workers.settings import AugmentationSettings, Keep, Policy

SIZE, MEAN = 12, torch.tensor([0.4, 0.5, 0.6])
OFF = AugmentationSettings(reflect=False, colour_std=0)
BILINEAR = v2.InterpolationMode.BILINEAR
# What is set, and torchvision's own of the same.
ALONE = {
    "boxes": (
        {"resized_crop": True, "crop_scale": (0.2, 0.5), "crop_ratio": (0.5, 1.0)},
        v2.RandomResizedCrop(SIZE, (0.2, 0.5), (0.5, 1.0)),
    ),
    "vertical": ({"reflect_vertically": True}, v2.RandomVerticalFlip(0.5)),
    "rotation": ({"rotation_degrees": 30.0}, v2.RandomRotation(30.0, interpolation=BILINEAR)),
    "randaugment": ({"policy": Policy.randaugment, "num_ops": 3, "magnitude": 20}, v2.RandAugment(3, 20, 31, BILINEAR)),
    "trivialaugment": ({"policy": Policy.trivialaugment}, v2.TrivialAugmentWide(31, BILINEAR)),
    "augmix": ({"policy": Policy.augmix}, v2.AugMix()),
    "jitter": ({"brightness": 0.4, "contrast": 0.3, "saturation": 0.2, "hue": 0.1}, v2.ColorJitter(0.4, 0.3, 0.2, 0.1)),
    "erasing": ({"random_erasing": 0.6}, v2.RandomErasing(0.6, value=[102, 128, 153])),
}
MODERN = AugmentationSettings(
    colour_std=0, resized_crop=True, reflect_vertically=True, rotation_degrees=10, policy=Policy.randaugment,
    brightness=0.4, hue=0.1, random_erasing=0.5,
)  # fmt: skip


def changed(settings, images, seeds, size=SIZE):
    crops = np.empty((len(images), size, size, 3), np.uint8)
    offsets = np.zeros((len(images), 2), np.int64)
    Transforms(settings, size, MEAN).fill(crops, np.stack(images), np.arange(len(images)), offsets, np.asarray(seeds))
    return crops


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def planes(image):
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


@pytest.mark.parametrize("case", ALONE)
def test_each_setting_is_torchvisions_transform_under_the_images_seed(case):
    given, theirs = ALONE[case]
    image, seeds = pixels(SIZE, SIZE, 3), range(30)
    found = changed(replace(OFF, **given), [image] * len(seeds), seeds)
    for seed, crop in zip(seeds, found, strict=True):
        torch.manual_seed(seed)
        assert torch.equal(planes(crop), theirs(planes(image)))
    assert len({crop.tobytes() for crop in found}) > 1


def test_transforms_follow_one_another_as_in_torchvisions_recipe():
    image = pixels(40, 30, 3)
    settings = replace(OFF, reflect=True, resized_crop=True, policy=Policy.trivialaugment, random_erasing=1.0)
    for seed, crop in zip(range(20), changed(settings, [image] * 20, range(20)), strict=True):
        torch.manual_seed(seed)
        box = v2.RandomResizedCrop(SIZE).make_params([planes(image)])
        seen = functional.resized_crop(planes(image), **box, size=[SIZE, SIZE], antialias=True)
        seen = functional.horizontal_flip(seen) if torch.rand(1) < 0.5 else seen
        seen = v2.TrivialAugmentWide(interpolation=BILINEAR)(seen)
        torch.rand(1)
        erased = v2.RandomErasing(1.0, value=[102, 128, 153]).make_params([seen])
        assert torch.equal(planes(crop), functional.erase(seen, **erased))


def test_erased_pixels_are_zeros_to_the_net():
    crops = changed(replace(OFF, random_erasing=1.0), [np.full((SIZE, SIZE, 3), 255, np.uint8)] * 20, range(20))
    erased = (crops != 255).all(-1)
    share = erased.mean((1, 2))
    assert share.min() > 0 and share.max() < 0.45
    assert float((torch.from_numpy(crops[erased]) / 255 - MEAN).abs().max()) <= 0.51 / 255


@pytest.mark.parametrize("shape", [(256, 256), (160, 256), (200, 24), (24, 200)])
def test_boxes_follow_the_rule_on_images_of_any_shape(shape, monkeypatch):
    drawn, make, count = [], v2.RandomResizedCrop.make_params, 400

    def watched(transform, flat_inputs):
        drawn.append(make(transform, flat_inputs))
        return drawn[-1]

    monkeypatch.setattr(v2.RandomResizedCrop, "make_params", watched)
    changed(replace(OFF, resized_crop=True), [np.zeros((*shape, 3), np.uint8)] * count, range(count))
    tops, lefts, heights, widths = (
        np.array([box[name] for box in drawn]) for name in ("top", "left", "height", "width")
    )
    assert (
        min(tops.min(), lefts.min()) >= 0 and (tops + heights).max() <= shape[0] and (lefts + widths).max() <= shape[1]
    )
    area, aspect = heights * widths / math.prod(shape), widths / heights
    assert aspect.min() > 0.71 and aspect.max() < 1.4
    if min(shape) > 100:
        assert 0.075 < area.min() < 0.15 < 0.75 < area.max() <= 1
    rule = np.array([box_by_the_rule(np.random.default_rng(seed), *shape) for seed in range(count)])
    assert stats.ks_2samp(heights, rule[:, 0]).pvalue > 1e-3
    assert stats.ks_2samp(widths, rule[:, 1]).pvalue > 1e-3


def box_by_the_rule(generator, height, width):
    """Ten tries, then the largest box in the centre that has an allowed aspect."""
    for _ in range(10):
        area = height * width * generator.uniform(0.08, 1.0)
        aspect = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        box = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if box[0] <= height and box[1] <= width:
            return box
    return min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))


@pytest.fixture
def store(plain_tree, tmp_path):
    return store_of(folder(plain_tree, size=16), tmp_path / "stores")


def opened(store, settings=MODERN, **how):
    how = {"batch_size": 7, **how}
    return TrainingBatches(store, pixel_statistics(store, settings), settings, seed=3, input_size=SIZE, **how)


@pytest.mark.parametrize(("depth", "threads"), [(0, 1), (3, 2), (8, 3)])
def test_batches_do_not_depend_on_threads_order_or_batch_size(store, depth, threads):
    batches, whole = opened(store, depth=depth, threads=threads), opened(store, batch_size=60)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    seen = {}
    for step in range(2 * batches.per_epoch):
        seen[step] = batches.take(step).images.clone()
    batches.close()
    for epoch in (1, 0):
        steps = range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch)
        assert torch.equal(torch.cat([seen[step] for step in steps]), whole.draw(epoch, 0).images)
    assert torch.equal(opened(store).draw(1, 4).images, seen[batches.per_epoch + 4])
    assert not torch.equal(whole.draw(0, 0).images, whole.draw(1, 0).images)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was drawn from"


def test_boxes_of_a_store_of_whole_images_lie_anywhere_in_them(tmp_path):
    files = {
        f"train/{name}/{side}.png": encoded(noise(side, side, 60 - side)) for name in "ab" for side in range(20, 40)
    }
    store = store_of(folder(write_tree(tmp_path / "tree", files), size=16, keep=Keep.whole), tmp_path / "stores")
    settings = replace(OFF, resized_crop=True)
    batches, images = opened(store, settings), store.images("train", whole=True)
    batch, draws = batches.draw(1, 0), batches._draws(1)
    assert len({images[image].shape for image in draws.order[:7]}) > 1
    for crop, image, seed in zip(batch.pixels, draws.order, draws.seeds, strict=False):
        torch.manual_seed(int(seed))
        assert torch.equal(crop.permute(2, 0, 1), v2.RandomResizedCrop(SIZE)(planes(images[image])))


def test_draws_without_a_generator_of_their_own_do_not_repeat(store, monkeypatch):
    monkeypatch.setattr(transforms, "_DRAWING", set())
    assert not torch.equal(opened(store).draw(0, 0).pixels, opened(store).draw(0, 0).pixels)


def test_images_of_a_sheet_are_those_of_their_batches(store):
    batches = opened(store)
    batch, order = batches.draw(1, 2), batches._draws(1).order[14:21]
    assert torch.equal(batches.draw_images(1, order[::-1]).images, batch.images.flip(0))


def test_batches_without_transforms_are_those_before_there_were_any(tmp_path):
    store = open_store(make_store(tmp_path))
    settings = AugmentationSettings()
    statistics = pixel_statistics(store, settings)
    batch = TrainingBatches(store, statistics, settings, seed=3, batch_size=64, input_size=16).draw(1, 2)
    digest = hashlib.sha256()
    for tensor in (batch.pixels, batch.labels, batch.windows.flips, batch.colour):
        digest.update(tensor.numpy().tobytes())
    digest.update(batch.windows.offsets.astype(np.int64).tobytes())
    assert digest.hexdigest() == "42f88c37513d1e0fe2e89c733df2f54d97f2b333f3ba1f4d44bca412035bd8b2"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"magnitude": 31}, "magnitude=31: give a number in [0, 30]"),
        ({"hue": 0.6}, "hue=0.6: give a number in [0, 0.5]"),
        ({"contrast": -1.0}, "contrast=-1.0: give 0 or more"),
        ({"crop_scale": (0.5, 0.1)}, "crop_scale=[0.5, 0.1]: give the least and the largest, as in [0.08,1]"),
        ({"crop_ratio": (0.5,)}, "crop_ratio=[0.5]: give the least"),
        ({"resized_crop": True, "random_crop": False}, "random_crop=false: resized_crop=true cuts random boxes"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(given, line):
    with pytest.raises(ValueError) as caught:
        AugmentationSettings(**given)
    assert str(caught.value).startswith(line)
