"""Draws how often the ensemble is right by how sure it is."""

from dataclasses import astuple

import numpy as np

from orchestrator.report.figures.drawing import INK, LINE, MARK, Drawing, canvas, draw, dress, hover
from orchestrator.report.reliability import Reliability
from orchestrator.report.scores import NUM_BINS, bins_of

_CAPTION = (
    "How often {who}'s first guess is right by how sure it is, in bins of equally many {split} images (dots "
    "with Wilson's 95 % intervals); on the dashed line it would be calibrated. Below: how many images are how sure."
)


def reliability_diagram(name: str, who: str, found: Reliability, split: str) -> Drawing:
    """Draws how often `who` is right by how sure it is, and below how many images are how sure."""
    with canvas(4.2) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        dress(above)
        dress(below)
        sure, right, low, high = 100 * np.array([(one.confidence, *astuple(one.right)) for one in found.equal_mass]).T
        above.plot([0, 100], [0, 100], color=INK, linewidth=0.9, linestyle="--", alpha=0.6)
        look = {"fmt": "o", "markersize": 4.5, "elinewidth": 1.1, "capsize": 2.5}
        above.errorbar(sure, right, (right - low, high - right), color=MARK, **look)
        above.set_ylim(-3, 103)
        counts = [one.num_images for one in found.equal_width]
        middles = (bins_of(np.array([one.confidence for one in found.equal_width])) + 0.5) / NUM_BINS
        bars = below.bar(100 * middles, counts, 100 / NUM_BINS, color=MARK, edgecolor=LINE)
        for patch, one in zip(bars, found.equal_width, strict=True):
            hover(patch, f"{one.confidence:.0%} sure: {one.num_images} images, {one.right.estimate:.0%} right")
        below.set_xlim(-3, 103)
        below.set_xlabel("sure of its first guess, %")
        above.set_ylabel("right, %")
        below.set_ylabel("images")
        states = (f"{one.confidence:.0%} sure, {one.right.estimate:.0%} right" for one in found.equal_mass)
        caption = _CAPTION.format(who=who, split=split)
        return draw(name, figure, caption, f"{caption} {'; '.join(states)}.")
