"""Shared, batched ten-crop against the obvious one: each crop cut out, through the net alone, softmax averaged."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from workers import numerics
from workers.data.loading import PixelStatistics, Windows, to_input
from workers.inference import ten_crop
from workers.inference.shared_windows import shared_convs
from workers.models import AlexNet
from workers.models.fresh import draw
from workers.protocol import Numerics
from workers.settings import Activation, AugmentationSettings, Crops, InitSettings, ModelSettings, TrainingSettings

FULL = ModelSettings(width=0.1, fc_units=32)
SMALL = ModelSettings(input_size=56, width=0.1, conv1_kernel=5, conv1_stride=2, fc_units=32)
TINY = ModelSettings(input_size=28, width=0.1, conv1_kernel=5, conv1_stride=1, fc_units=32)
STATISTICS = PixelStatistics(torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3]), torch.eye(3))
# name: settings, side of the image, convolutions that are shared.
GEOMETRIES = {
    "224 of 256": (FULL, 256, 2),
    "56 of 64": (SMALL, 64, 1),
    "28 of 32": (TINY, 32, 1),
    "six convs": (replace(FULL, num_convs=6), 256, 2),
    "no normalisation": (replace(FULL, lrn=False), 256, 2),
    "no padding": (replace(FULL, conv1_padding=0), 256, 2),
    "padding above the stride": (replace(SMALL, conv1_padding=4), 64, 1),
    "227 of 259": (replace(FULL, input_size=227, conv1_padding=0), 259, 2),
    "half the margin": (FULL, 240, 1),
    "padding at one end": (replace(FULL, conv1_padding=0, conv1_padding_end=3), 256, 2),
    "norm within maps": (replace(FULL, within_map_norm=True), 256, 1),
    "pooling without overlap": (replace(FULL, pool_size=2), 256, 2),
    "tanh": (replace(FULL, activation=Activation.tanh), 256, 2),
    "no conv4": (replace(FULL, without=("conv4",)), 256, 2),
    "one group": (replace(FULL, groups=1), 256, 2),
    "margin off the stride": (FULL, 250, 0),
    "margin of a stride": (FULL, 232, 0),
    "no margin": (FULL, 224, 0),
}


def net(settings: ModelSettings) -> AlexNet:
    """Random weights, biases and images far enough from zero that a missing border shows."""
    numerics.apply(Numerics())
    model = AlexNet(settings, 7).to(memory_format=torch.channels_last).eval()
    generator = torch.Generator().manual_seed(0)
    draw(model, InitSettings(bias=0.1, std=0.3), generator)
    with torch.no_grad():
        model.get_submodule("conv1").bias.normal_(0, 0.5, generator=generator)
    return model


def photographs(side: int, num_images: int = 2) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (num_images, side, side, 3), dtype=np.uint8)


def with_mean_image(side: int) -> PixelStatistics:
    """A mean image in which no two places are alike; scaled, so that what the net says stays far from 0 and 1."""
    mean = np.random.default_rng(2).uniform(60, 180, (side, side, 3)).astype(np.float32)
    return replace(STATISTICS, mean_image=torch.from_numpy(mean))


def one_by_one(
    model: nn.Module, images: np.ndarray, size: int, statistics: PixelStatistics = STATISTICS, **how: Any
) -> np.ndarray:
    """The slow, obvious ten-crop: each window and reflection of each image, cut from its pixels, alone."""
    margin = images.shape[1] - size
    corners = {(0, 0), (0, margin), (margin // 2, margin // 2), (margin, 0), (margin, margin)}
    rows = []
    with torch.inference_mode(), numerics.autocast(how["chosen"]):
        for image in images:
            seen = []
            for top, left in corners:
                window = image[top : top + size, left : left + size]
                for flipped in (False, True) if how["reflect"] else (False,):
                    view = torch.from_numpy(np.ascontiguousarray(window[None]))
                    where = Windows(np.array([[top, left]]), torch.tensor([flipped]))
                    inputs = to_input(view, statistics, None, where)
                    seen.append(model(inputs).double().softmax(dim=1)[0].numpy())
            rows.append(np.mean(seen, axis=0))
    return np.array(rows)


def by_crops(
    model: nn.Module,
    images: np.ndarray,
    size: int,
    statistics: PixelStatistics = STATISTICS,
    crops: Crops = Crops.ten,
    *,
    reflect: bool = True,
    chosen: Numerics,
) -> np.ndarray:
    """The fast way, for a member whose training had windows of `size` and reflections or none."""
    augmentation = AugmentationSettings(reflect=reflect)
    settings = TrainingSettings(model=ModelSettings(input_size=size), augmentation=augmentation)
    return ten_crop.mean_over_crops(
        ten_crop.TrainedMember(model, statistics, settings, chosen, "step-00000001", ""), images, crops
    )


def difference(settings: ModelSettings, side: int, *, reflect: bool = True, precision: str = "fp32") -> float:
    """The largest difference of a probability between fast and slow."""
    model, images, chosen = net(settings), photographs(side), Numerics(precision=precision)
    size = settings.input_size
    fast = by_crops(model, images, size, reflect=reflect, chosen=chosen)
    slow = one_by_one(model, images, size, reflect=reflect, chosen=chosen)
    assert fast.dtype == np.float32 and fast.shape == slow.shape
    assert np.ptp(slow, axis=1).min() > 0.02, "a net that finds all classes alike would hide a fault"
    return float(np.abs(fast - slow).max())


@pytest.mark.parametrize("name", GEOMETRIES)
def test_ten_crop_equals_each_crop_alone(name):
    settings, side, shared = GEOMETRIES[name]
    offsets = ten_crop.crop_offsets(side - settings.input_size)
    assert len(shared_convs(AlexNet(settings, 7).shareable, offsets, settings.input_size)) == shared
    assert difference(settings, side) < 1e-5


@pytest.mark.parametrize("name", ["224 of 256", "56 of 64", "margin off the stride"])
@pytest.mark.parametrize(("how", "bound"), [({"reflect": False}, 1e-5), ({"precision": "bf16"}, 1e-3)])
def test_ten_crop_unreflected_or_in_bf16_equals_each_crop_alone(name, how, bound):
    assert difference(*GEOMETRIES[name][:2], **how) < bound


@pytest.mark.parametrize("name", ["224 of 256", "56 of 64", "margin off the stride", "no margin"])
def test_centre_crop_equals_the_net_on_the_window_in_the_middle(name):
    settings, side, _ = GEOMETRIES[name]
    model, images, size = net(settings), photographs(side), settings.input_size
    # The second prediction shows that the first left the net as it was.
    for crops in (Crops.ten, Crops.centre):
        found = by_crops(model, images, size, crops=crops, chosen=Numerics())
    first = (side - size) // 2
    window = np.ascontiguousarray(images[:, first : first + size, first : first + size])
    with torch.inference_mode():
        wanted = model(to_input(torch.from_numpy(window), STATISTICS)).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["224 of 256", "56 of 64", "margin off the stride"])
def test_ten_crop_less_a_mean_image_equals_each_crop_alone(name):
    settings, side, _ = GEOMETRIES[name]
    model, images, statistics = net(settings), photographs(side), with_mean_image(side)
    with torch.no_grad():
        model.get_submodule("conv1").weight.mul_(0.02)
    size, chosen = settings.input_size, Numerics()
    fast = by_crops(model, images, size, statistics, chosen=chosen)
    slow = one_by_one(model, images, size, reflect=True, chosen=chosen, statistics=statistics)
    other = one_by_one(model, images, size, reflect=True, chosen=chosen)
    assert np.abs(fast - slow).max() < 1e-5 < 1e-3 < np.abs(fast - other).max()


@pytest.mark.parametrize(("size", "expected"), [(224, [16, 16, 8]), (48, [40])])
def test_views_that_share_nothing_go_through_the_net_as_many_as_their_pixels_allow(size, expected):
    model, seen = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7)).eval(), list[int]()
    model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    by_crops(model, photographs(size + 8, 4), size, chosen=Numerics())
    assert seen == expected
