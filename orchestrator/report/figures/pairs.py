"""Draws values of each two members."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.report.figures.drawing import CARD, INK, MARK, Drawing, canvas, draw, dress, hover, member_colours


def pairs_chart(names: Sequence[str], below: NDArray[np.float64], above: NDArray[np.float64], caption: str) -> Drawing:
    """Draws a cell for each two of `names`, of two symmetric matrices, that `below` the diagonal in percent."""
    from matplotlib.patches import Rectangle

    num, apart, step = len(names), ~np.eye(len(names), dtype=bool), 1 + len(names) // 20
    kinds = [(matrix, np.nanmax([1e-9, *matrix[apart]])) for matrix in (below, above)]
    colours = (MARK, *member_colours([False]))
    with canvas(0.4 + min(3.8, 0.5 * num)) as figure:
        axes = figure.subplots()
        dress(axes)
        axes.grid(visible=False)
        for row, column in (1 + np.argwhere(apart)).tolist():
            (matrix, largest), colour = kinds[row < column], colours[row < column]
            value = matrix[row - 1, column - 1]
            face = (colour, 0.45 * max(np.nan_to_num(value), 0) / largest)
            cell = axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=face, edgecolor=CARD))
            said = f"{value:.1f} %" if row > column else f"{value:.2f}"
            hover(cell, f"{names[row - 1]}, {names[column - 1]}: {said}")
            if num <= 12:
                axes.text(column, row, said.removesuffix(" %"), ha="center", va="center", fontsize=8, color=INK)
        axes.set_yticks(range(1, num + 1, step), [f"{names[at]}  {at + 1}" for at in range(0, num, step)])
        axes.set(xlim=(0.5, num + 0.5), ylim=(num + 0.5, 0.5), aspect="equal", xticks=range(1, num + 1, step))
        return draw("disagreement", figure, caption)
