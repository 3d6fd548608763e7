"""Draws the errors of members and averages beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.combine import Interval
from orchestrator.report.figures.drawing import INK, MARK, Drawing, canvas, draw, dress, hover, member_colours


@dataclass(frozen=True)
class Bar:
    """One bar of the errors figure; `error` is in [0, 1]."""

    name: str
    error: Interval
    pretrained: bool
    averaged: bool


def member_errors(bars: Sequence[Bar]) -> Drawing:
    """Draws the top-1 error of each member and of the averages, with its interval."""
    with canvas(0.9 + min(0.3 * len(bars), max(4, 0.17 * len(bars)))) as figure:
        axes = figure.subplots()
        dress(axes)
        singles = iter(member_colours([bar.pretrained for bar in bars if not bar.averaged]))
        colours = [MARK if bar.averaged else next(singles) for bar in bars]
        places = np.arange(len(bars))
        errors, lows, ends = (
            [100 * value for value in values]
            for values in zip(*((bar.error.estimate, bar.error.low, bar.error.high) for bar in bars), strict=True)
        )
        spread = [np.subtract(errors, lows), np.subtract(ends, errors)]
        drawn = axes.barh(places, errors, color=colours, height=0.62)
        axes.errorbar(errors, places, xerr=spread, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
        for patch, bar, place, error, low, end in zip(drawn, bars, places, errors, lows, ends, strict=True):
            hover(patch, f"{bar.name}: {error:.2f} % ({low:.2f}–{end:.2f})")
            beside = f"{error:.2f}", (end, place), (5, 0)
            axes.annotate(*beside, textcoords="offset points", va="center", fontsize=9, color=INK)
        # Longer names leave no room for bars; hovering says them whole.
        axes.set_yticks(places, [bar.name if len(bar.name) <= 28 else f"{bar.name[:27]}…" for bar in bars])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 1.15 * max(ends, default=1))
        axes.set_xlabel("top-1 error, %")
        averages = " and, below, of averaged probabilities" if any(bar.averaged for bar in bars) else ""
        caption = f"Top-1 error of every member{averages}, with 95 % intervals over images."
        return draw("member_errors", figure, caption)
