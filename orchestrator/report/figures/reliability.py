"""Draws how often the ensemble is right by how sure it is."""

from collections.abc import Mapping
from dataclasses import astuple

import numpy as np

from orchestrator.report.figures.drawing import COLUMN, INK, LINE, MARK, Drawing, canvas, draw, dress, hover
from orchestrator.report.reliability import Reliability
from orchestrator.report.scores import NUM_BINS, bins_of

_CAPTION = (
    "How often the ensemble's first guess is right by how sure it is, in bins of equally many {split} images (dots "
    "with Wilson's 95 % intervals); on the dashed line it would be calibrated. Below: how many images are how sure."
)


def reliability_diagram(panels: Mapping[str, Reliability], split: str) -> Drawing:
    """Draws a panel for each of `panels`, by title: how often right by how sure, and below how many are how sure."""
    with canvas(4.6, COLUMN * len(panels)) as figure:
        rows = figure.subplots(2, len(panels), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1))
        spoken = []
        for above, below, (title, found) in zip(*rows, panels.items(), strict=True):
            dress(above, title)
            dress(below)
            sure, right, low, high = (
                100 * np.array([(one.confidence, *astuple(one.right)) for one in found.equal_mass]).T
            )
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
            states = (f"{one.confidence:.0%} sure, {one.right.estimate:.0%} right" for one in found.equal_mass)
            spoken.append(f"{title}: {'; '.join(states)}.")
        rows[0, 0].set_ylabel("right, %")
        rows[1, 0].set_ylabel("images")
        caption = _CAPTION.format(split=split)
        return draw("reliability", figure, caption, f"{caption} {' '.join(spoken)}")
