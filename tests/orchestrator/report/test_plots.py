"""Figures: the mosaic of kernels exactly, the rest by being PNGs of the right kind."""

import io

import numpy as np
import pytest
from PIL import Image

from orchestrator.combine import Interval
from orchestrator.report import plots
from orchestrator.report.curves import Curve, Series


def read(png):
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return image


@pytest.mark.parametrize(
    ("num", "side", "shape"), [(96, 11, (71, 191, 3)), (16, 3, (3, 63, 3)), (17, 3, (7, 63, 3)), (5, 5, (5, 29, 3))]
)
def test_kernel_mosaic_sixteen_a_row_with_gaps_of_one(num, side, shape):
    weights = np.random.default_rng(0).normal(size=(num, 3, side, side)).astype(np.float32)
    mosaic = plots.kernel_mosaic(weights)
    assert mosaic.shape == shape
    assert (mosaic[:, side :: side + 1] == 0).all()
    assert (mosaic[side :: side + 1] == 0).all()


def test_kernel_mosaic_kernels_in_reading_order_on_one_scale():
    weights = np.zeros((18, 3, 2, 2), np.float32)
    weights[0, 0] = 1  # red of the first
    weights[17, 2, 1, 0] = -1  # blue, lower left, of the last
    mosaic = plots.kernel_mosaic(weights)
    assert mosaic[0, 0].tolist() == [255, 128, 128]
    assert mosaic[0, 3].tolist() == [128, 128, 128]
    assert mosaic[3 + 1, 3 + 0].tolist() == [128, 128, 0]


def test_kernel_mosaic_constant_weights_are_grey():
    assert set(np.unique(plots.kernel_mosaic(np.full((1, 3, 2, 2), 7, np.float32)))) == {128}


def test_conv1_kernels_png_enlarges_each_weight():
    weights = np.random.default_rng(0).normal(size=(16, 3, 5, 5)).astype(np.float32)
    image = read(plots.conv1_kernels(weights, pixel=3))
    assert image.size == (3 * (16 * 6 - 1), 3 * 5)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB"))[1::3, 1::3], plots.kernel_mosaic(weights))


def make_curves(num, num_epochs):
    epochs = tuple(float(epoch) for epoch in range(1, num_epochs + 1))
    series = Series(epochs, tuple(1 / epoch for epoch in epochs))
    return [Curve(f"member{index}", index % 3 == 2, series, series, (2.0,)) for index in range(num)]


@pytest.mark.parametrize("theme", [plots.LIGHT, plots.DARK])
@pytest.mark.parametrize(("num", "num_epochs"), [(0, 0), (1, 1), (40, 10)])
def test_learning_curves_any_number_of_members_is_drawn(num, num_epochs, theme):
    curves = make_curves(num, num_epochs)
    image = read(plots.learning_curves(curves, theme))
    corner = image.convert("RGB").getpixel((0, 0))
    assert corner == tuple(bytes.fromhex(theme.background[1:]))


def test_member_errors_same_values_same_bytes():
    bars = [
        plots.Bar("a", Interval(0.5, 0.4, 0.6), False, False),
        plots.Bar("b", Interval(0.0, 0.0, 0.01), True, False),
    ]
    bars.append(plots.Bar("2 CNNs*", Interval(0.4, 0.38, 0.42), False, True))
    assert plots.member_errors(bars, plots.LIGHT) == plots.member_errors(bars, plots.LIGHT)
    assert plots.member_errors(bars, plots.LIGHT) != plots.member_errors(bars[:2], plots.LIGHT)
    read(plots.member_errors([plots.Bar("perfect", Interval(0.0, 0.0, 0.01), False, False)], plots.DARK))
