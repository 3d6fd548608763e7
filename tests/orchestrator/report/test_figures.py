"""Figures: the mosaic of kernels exactly; drawings follow the page's colours and are safe for any name."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from orchestrator.combine import Interval
from orchestrator.report.figures import (
    PALETTE,
    Bar,
    Stretch,
    conv1_kernels,
    lines_chart,
    member_errors,
    pairs_chart,
    schedule_chart,
)
from orchestrator.report.figures.drawing import member_colours
from orchestrator.report.figures.kernels import kernel_mosaic
from orchestrator.report.gallery import _smaller


def read(png):
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return image


@pytest.mark.parametrize(("num", "columns", "rows"), [(96, 9, 11), (16, 4, 4), (17, 4, 5), (5, 8, 1)])
def test_kernel_mosaic_has_rows_with_gaps_of_one_and_nothing_else_is_opaque(num, columns, rows):
    weights = np.random.default_rng(0).normal(size=(num, 3, 3, 3)).astype(np.float32)
    mosaic = kernel_mosaic(weights, columns)
    assert mosaic.shape == (4 * rows - 1, 4 * min(columns, num) - 1, 4)
    assert not mosaic[:, 3::4].any() and not mosaic[3::4].any()
    assert (mosaic[..., 3] == 255).sum() == num * 9, "a cell without a kernel is transparent"


def test_kernel_mosaic_kernels_in_reading_order_on_one_scale():
    weights = np.zeros((18, 3, 2, 2), np.float32)
    weights[0, 0] = 1  # red of the first
    weights[17, 2, 1, 0] = -1  # blue, lower left, of the last
    mosaic = kernel_mosaic(weights, 16)
    assert mosaic[0, 0].tolist() == [255, 128, 128, 255]
    assert mosaic[0, 3].tolist() == [128, 128, 128, 255]
    assert mosaic[3 + 1, 3 + 0].tolist() == [128, 128, 0, 255]


def test_kernel_mosaic_constant_weights_are_grey():
    assert set(np.unique(kernel_mosaic(np.full((1, 3, 2, 2), 7, np.float32), 1)[..., :3])) == {128}


@pytest.mark.parametrize(
    ("num", "side", "pixel", "columns"), [(96, 11, 8, 3), (24, 5, 8, 6), (64, 3, 14, 5), (4, 2, 20, 4)]
)
def test_conv1_kernels_weights_are_large_enough_to_see_and_a_narrow_page_holds_them(num, side, pixel, columns):
    weights = np.random.default_rng(0).normal(size=(num, 3, side, side)).astype(np.float32)
    image = read(conv1_kernels(weights))
    assert image.width == pixel * (columns * (side + 1) - 1) <= 288
    np.testing.assert_array_equal(np.asarray(image)[1::pixel, 1::pixel], kernel_mosaic(weights, columns))


def test_sheet_on_the_page_takes_a_fraction_of_its_bytes_and_a_damaged_one_is_no_error():
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "png")
    kind, _, content = _smaller(buffer.getvalue()).partition(";base64,")
    shown = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (kind, shown.size, shown.mode) == ("data:image/webp", (64, 64), "RGBA")
    assert len(content) < len(buffer.getvalue())
    assert _smaller(b"\x89PNG") == "data:image/png;base64,iVBORw=="


def make_lines(num, num_epochs):
    return {f"member{index}": {epoch: 1 / epoch for epoch in range(1, num_epochs + 1)} for index in range(num)}


def learning(num, num_epochs, **others):
    kinds = [index % 3 == 2 for index in range(num)]
    return lines_chart("loss", "epoch", "error, %", {**make_lines(num, num_epochs), **others}, kinds, {2.0})


@pytest.mark.parametrize(("num", "num_epochs"), [(1, 1), (40, 10)])
def test_lines_chart_any_number_of_members_is_drawn(num, num_epochs):
    drawn = learning(num, num_epochs)
    assert read(drawn.png).convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert drawn.inline.count("<title>") == num
    assert f"member0: {100 / num_epochs:g} % at the end" in drawn.inline
    # No epoch has a fraction.
    assert (">1<" in drawn.inline and ">1.02<" not in drawn.inline) or num_epochs > 1
    assert "lower edge" not in drawn.caption and "lower edge" in learning(num, num_epochs, mean={1: 0.0}).caption


def test_lines_chart_twelve_members_have_a_sign_each_and_a_legend():
    """Shades of a hue are too near each other, and nobody can hover over paper."""
    drawn = learning(12, 3, mean={1: 0.0, 3: 0.5})
    signs = re.findall(r'<path id="(m\w+)" d="([^"]+)"', drawn.inline)
    assert len({shape for _, shape in signs}) >= 12
    assert all(f">member{index}<" in drawn.inline for index in range(12))
    assert (
        ">member0<" not in learning(13, 3, mean={1: 0.1}).inline and ">mean<" in learning(13, 3, mean={1: 0.1}).inline
    )


STRETCHES = [
    Stretch("base1", "failed", 0.0, 60.0, "lost"),
    Stretch("base1", "last stage", 90.0, 240.0, "done"),
    Stretch("base1", "kept checkpoint", 200.0, 200.0, "step"),
    Stretch("<b>", "prediction", 240.0, 250.0, "said"),
]


def test_schedule_chart_hovering_says_what_ran_and_how_long_a_row_waited():
    drawn = schedule_chart("schedule_1", STRETCHES, "caption")
    titles = re.findall("<title>([^<]*)</title>", drawn.inline)
    assert sorted(titles) == [
        "&lt;b&gt; waited 4 min 00 s in all",
        "base1 waited 30 s in all",
        *sorted(["done", "lost", "said", "step"]),
    ]
    assert all(f">{kind}<" in drawn.inline for kind in ("failed", "last stage", "kept checkpoint", "waiting"))
    assert ">cut short<" not in drawn.inline


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
    for drawn in (member_errors(BARS), learning(2, 3), schedule_chart("schedule_1", STRETCHES, "caption")):
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


CARDS = PALETTE["card"]


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


@pytest.mark.parametrize("ground", [0, 1])
def test_pairs_chart_letters_can_be_read_on_the_strongest_cells(ground):
    matrix = np.array([[0.0, 0.5], [0.5, 0.0]])
    drawn = pairs_chart(["a", "b"], 100 * matrix, matrix, "said")
    cells = set(re.findall(r"fill: (\S+); fill-opacity: (0.45);", drawn.inline))
    assert len(cells) == 2
    for fill, opacity in cells:
        colour = PALETTE["mark"][ground] if fill == "var(--mark)" else fill
        above, below = (np.array([int(one[at : at + 2], 16) for at in (1, 3, 5)]) for one in (colour, CARDS[ground]))
        mixed = np.rint(float(opacity) * above + (1 - float(opacity)) * below).astype(int)
        assert contrast("#{:02x}{:02x}{:02x}".format(*mixed), PALETTE["ink"][ground]) >= 4.5, (fill, mixed)
