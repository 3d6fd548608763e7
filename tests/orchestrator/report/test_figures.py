"""Figures: the mosaic of kernels exactly; drawings follow the page's colours and are safe for any name."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from orchestrator.combine import Interval
from orchestrator.report.curves import Curve, Series
from orchestrator.report.figures import PALETTE, Bar, conv1_kernels, learning_curves, member_errors
from orchestrator.report.figures.drawing import member_colours
from orchestrator.report.figures.kernels import kernel_mosaic
from orchestrator.report.gallery import _smaller


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
    mosaic = kernel_mosaic(weights)
    assert mosaic.shape == shape
    assert (mosaic[:, side :: side + 1] == 0).all()
    assert (mosaic[side :: side + 1] == 0).all()


def test_kernel_mosaic_kernels_in_reading_order_on_one_scale():
    weights = np.zeros((18, 3, 2, 2), np.float32)
    weights[0, 0] = 1  # red of the first
    weights[17, 2, 1, 0] = -1  # blue, lower left, of the last
    mosaic = kernel_mosaic(weights)
    assert mosaic[0, 0].tolist() == [255, 128, 128]
    assert mosaic[0, 3].tolist() == [128, 128, 128]
    assert mosaic[3 + 1, 3 + 0].tolist() == [128, 128, 0]


def test_kernel_mosaic_constant_weights_are_grey():
    assert set(np.unique(kernel_mosaic(np.full((1, 3, 2, 2), 7, np.float32)))) == {128}


def test_conv1_kernels_png_enlarges_each_weight():
    weights = np.random.default_rng(0).normal(size=(16, 3, 5, 5)).astype(np.float32)
    image = read(conv1_kernels(weights, pixel=3))
    assert image.size == (3 * (16 * 6 - 1), 3 * 5)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB"))[1::3, 1::3], kernel_mosaic(weights))


def test_sheet_on_the_page_takes_a_fraction_of_its_bytes_and_a_damaged_one_is_no_error():
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "png")
    kind, _, content = _smaller(buffer.getvalue()).partition(";base64,")
    shown = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (kind, shown.size, shown.mode) == ("data:image/webp", (64, 64), "RGBA")
    assert len(content) < len(buffer.getvalue())
    assert _smaller(b"\x89PNG") == "data:image/png;base64,iVBORw=="


def make_curves(num, num_epochs):
    epochs = tuple(float(epoch) for epoch in range(1, num_epochs + 1))
    series = Series(epochs, tuple(1 / epoch for epoch in epochs))
    return [Curve(f"member{index}", index % 3 == 2, series, series, (2.0,)) for index in range(num)]


@pytest.mark.parametrize(("num", "num_epochs"), [(0, 0), (1, 1), (40, 10)])
def test_learning_curves_any_number_of_members_is_drawn(num, num_epochs):
    drawn = learning_curves(make_curves(num, num_epochs))
    assert read(drawn.png).convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert drawn.inline.count("<title>") == 2 * num


BARS = [
    Bar("a", Interval(0.5, 0.4, 0.6), False, False),
    Bar("b", Interval(0.0, 0.0, 0.01), True, False),
    Bar("2 CNNs*", Interval(0.4, 0.38, 0.42), False, True),
]


def test_member_errors_same_values_same_bytes():
    assert member_errors(BARS) == member_errors(BARS)
    assert member_errors(BARS).svg != member_errors(BARS[:2]).svg
    read(member_errors(BARS[1:2]).png)


def test_draw_inline_has_the_pages_colours_and_files_have_their_own():
    drawn = member_errors(BARS)
    assert drawn.inline.startswith("<svg ") and drawn.svg.startswith(b"<?xml")
    assert "var(--ink)" in drawn.inline and "var(--card)" in drawn.inline
    assert not any(light in drawn.inline for light, _ in PALETTE.values())
    assert b"var(" not in drawn.svg and PALETTE["ink"][0].encode() in drawn.svg


def test_draw_ids_are_those_that_something_refers_to():
    """Several drawings are on one page, so that ids that all have would be there twice."""
    for drawn in (member_errors(BARS), learning_curves(make_curves(2, 3))):
        ids, used = re.findall(r' id="([^"]*)"', drawn.inline), re.findall(r'(?:#)([\w-]+)[)"]', drawn.inline)
        assert set(ids) <= set(used) and len(ids) == len(set(ids))


class Names(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_draw_names_with_markup_are_text():
    name = '<script>"&$x_1$--></svg>'
    parsed = Names()
    parsed.feed(member_errors([Bar(name, Interval(0.5, 0.4, 0.6), False, False)]).inline)
    assert "script" not in parsed.tags
    assert f"{name}: 50.00 % (40.00–60.00)" in parsed.text


def luminance(colour):
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("ground", [0, 1])
def test_palette_contrast_text_four_and_a_half_and_members_three(ground):
    for name in ("ink", "soft", "mark", "warn"):
        for below in ("card", "page"):
            assert contrast(PALETTE[name][ground], PALETTE[below][ground]) >= 4.5, (name, below)
    for colour in member_colours([False] * 9 + [True] * 9):
        assert contrast(colour, PALETTE["card"][ground]) >= 3, colour
