"""Draws the report's figures as PNG bytes. The only module that uses matplotlib; imports it when it draws."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine import Interval
from orchestrator.report.curves import Curve
from orchestrator.report.reliability import Reliability
from orchestrator.report.scores import NUM_BINS, bins_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KERNELS_A_ROW = 16
_MOST_NAMED = 12


@dataclass(frozen=True)
class Theme:
    """Colours of a figure; `base` and `pretrained` members each have a range from dark to light."""

    name: str
    background: str
    ink: str
    grid: str
    base: tuple[str, str]
    pretrained: tuple[str, str]
    ensemble: str


LIGHT = Theme("light", "#ffffff", "#1f2733", "#e3e7ee", ("#12407a", "#7fb2ea"), ("#a34a00", "#f0a860"), "#0f7b5f")
DARK = Theme("dark", "#161b22", "#d8dee9", "#2c3440", ("#3f7fc4", "#8dbbea"), ("#b8681a", "#e3aa66"), "#3ec79f")


@dataclass(frozen=True)
class Bar:
    """One bar of the errors figure; `error` is in [0, 1]."""

    name: str
    error: Interval
    pretrained: bool
    averaged: bool


def learning_curves(curves: Sequence[Curve], theme: Theme) -> bytes:
    """Draws training and validation top-1 error of all members by epoch; dotted lines mark the starts of stages."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(10.0, 3.9, theme)
    left, right = figure.subplots(1, 2, sharey=True)
    colours = _member_colours([curve.pretrained for curve in curves], theme)
    for axes, title in ((left, "training (augmented)"), (right, "validation")):
        _dress(axes, theme)
        axes.set_title(title, color=theme.ink, fontsize=11, loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel("top-1 error, %")
    for curve, colour in zip(curves, colours, strict=True):
        for axes, series in ((left, curve.train), (right, curve.val)):
            # A member with a single epoch is shown as a point.
            marker = "o" if len(series.epochs) == 1 else ""
            errors = [100 * error for error in series.errors]
            axes.plot(
                series.epochs, errors, color=colour, linewidth=1.4, marker=marker, markersize=4, label=curve.member
            )
        for start in set(curve.starts):
            for axes in (left, right):
                axes.axvline(start, color=theme.ink, linewidth=0.7, linestyle=":", alpha=0.35)
    left.set_ylim(bottom=0)
    if 0 < len(curves) <= _MOST_NAMED:
        right.legend(frameon=False, fontsize=8, labelcolor=theme.ink, ncols=2)
    return _png(figure)


def member_errors(bars: Sequence[Bar], theme: Theme) -> bytes:
    """Draws the top-1 error of each member and of the averages, with its interval."""
    figure = _figure(10.0, 0.9 + 0.32 * len(bars), theme)
    axes = figure.subplots()
    _dress(axes, theme)
    kinds = _member_colours([bar.pretrained for bar in bars if not bar.averaged], theme)
    singles = iter(kinds)
    colours = [theme.ensemble if bar.averaged else next(singles) for bar in bars]
    places = np.arange(len(bars))
    errors = [100 * bar.error.estimate for bar in bars]
    ends = [100 * bar.error.high for bar in bars]
    spread = [
        [100 * (bar.error.estimate - bar.error.low) for bar in bars],
        [end - error for end, error in zip(ends, errors, strict=True)],
    ]
    axes.barh(places, errors, color=colours, height=0.62)
    axes.errorbar(errors, places, xerr=spread, fmt="none", ecolor=theme.ink, elinewidth=1.1, capsize=2.5)
    for place, (error, end) in enumerate(zip(errors, ends, strict=True)):
        axes.text(end, place, f"  {error:.2f}", va="center", fontsize=8.5, color=theme.ink)
    axes.set_yticks(places, [bar.name for bar in bars])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.12 * max(ends, default=1))
    axes.set_xlabel("top-1 error, %")
    return _png(figure)


def reliability(panels: Mapping[str, Reliability], theme: Theme) -> bytes:
    """Draws a panel for each of `panels`, by title: how often right by how sure, and below how many are how sure."""
    figure = _figure(5.0 * len(panels), 5.2, theme)
    rows = figure.subplots(2, len(panels), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1))
    for above, below, (title, found) in zip(*rows, panels.items(), strict=True):
        _dress(above, theme)
        _dress(below, theme)
        sure, right, low, high = 100 * np.array([(one.confidence, *astuple(one.right)) for one in found.equal_mass]).T
        above.plot([0, 100], [0, 100], color=theme.ink, linewidth=0.9, linestyle="--", alpha=0.6)
        bars = {"fmt": "o", "markersize": 4.5, "elinewidth": 1.1, "capsize": 2.5}
        above.errorbar(sure, right, (right - low, high - right), color=theme.ensemble, **bars)
        above.set_title(title, color=theme.ink, fontsize=11, loc="left")
        above.set_ylim(-3, 103)
        counts = [one.num_images for one in found.equal_width]
        middles = (bins_of(np.array([one.confidence for one in found.equal_width])) + 0.5) / NUM_BINS
        below.bar(100 * middles, counts, 100 / NUM_BINS, color=theme.ensemble, edgecolor=theme.grid)
        below.set_xlim(-3, 103)
        below.set_xlabel("sure of its first guess, %")
    rows[0, 0].set_ylabel("right, %")
    rows[1, 0].set_ylabel("images")
    return _png(figure)


def conv1_kernels(weights: NDArray[np.float32], pixel: int = 4) -> bytes:
    """Draws the first layer's kernels, as Krizhevsky et al. 2012, Fig. 3.

    Args:
        weights: (filters, 3, k, k).
        pixel: width of one weight and of a gap, in pixels of the picture.
    """
    from matplotlib.image import imsave

    picture = kernel_mosaic(weights).repeat(pixel, axis=0).repeat(pixel, axis=1)
    buffer = io.BytesIO()
    imsave(buffer, picture, format="png", pil_kwargs={"pnginfo": None})
    return buffer.getvalue()


def kernel_mosaic(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Arranges kernels in rows of 16 with gaps of one pixel: (height, width, 3).

    All kernels share one scale, so that they are comparable: a dead kernel is grey, not amplified noise.
    """
    low, high = float(weights.min()), float(weights.max())
    # Constant weights have no scale and become mid-grey.
    scaled = (weights - low) / (high - low) if high > low else np.full_like(weights, 0.5)
    pixels = (255 * scaled).round().astype(np.uint8).transpose(0, 2, 3, 1)
    num, side = len(pixels), pixels.shape[1]
    columns = min(KERNELS_A_ROW, num)
    rows = -(-num // columns)
    mosaic = np.zeros((rows * (side + 1) - 1, columns * (side + 1) - 1, 3), dtype=np.uint8)
    for index, kernel in enumerate(pixels):
        top, left = (index // columns) * (side + 1), (index % columns) * (side + 1)
        mosaic[top : top + side, left : left + side] = kernel
    return mosaic


def _figure(width: float, height: float, theme: Theme) -> "Figure":
    # Without pyplot: no global state, no display, always Agg.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=theme.background)
    FigureCanvasAgg(figure)
    return figure


def _dress(axes: "Axes", theme: Theme) -> None:
    axes.set_facecolor(theme.background)
    axes.grid(visible=True, color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.ink, labelsize=9, length=0)
    axes.xaxis.label.set_color(theme.ink)
    axes.yaxis.label.set_color(theme.ink)
    for side in axes.spines.values():
        side.set_visible(False)


def _member_colours(pretrained: Sequence[bool], theme: Theme) -> list[str]:
    """Returns a colour for each member: a hue for each kind, a shade for each member."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    colours = []
    for index, kind in enumerate(pretrained):
        shades = LinearSegmentedColormap.from_list("", theme.pretrained if kind else theme.base)
        place = pretrained[:index].count(kind) / max(1, pretrained.count(kind) - 1)
        colours.append(to_hex(shades(place)))
    return colours


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    # Without the software version the same numbers give the same bytes.
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
