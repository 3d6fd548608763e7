"""Draws matrices: which classes the ensemble takes for which, and values of each two members."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.report.figures.drawing import (
    CARD,
    COLUMN,
    INK,
    MARK,
    WARN,
    Drawing,
    canvas,
    draw,
    dress,
    hover,
    member_colours,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CAPTION = (
    "What the ensemble takes {split} images for: a row a label, a column a guess; what is confused stands side by "
    "side. The stronger the colour, the larger the share of the label's images."
)
# More than `_MOST_CELLS` members are a picture, since so many cells would be too many for a page.
_MOST_NUMBERED, _MOST_CELLS, _LONGEST, _NUM_SPOKEN = 15, 40, 18, 5


class Cell(NamedTuple):
    """So many images of a class, by its index, were guessed to be of another, and their `share` of the class's."""

    label: int
    guess: int
    images: int
    share: float


def confusion_matrix(cells: Sequence[Cell], names: Sequence[str], split: str) -> Drawing:
    """Draws `cells`, most frequent first, as a matrix of all classes, clustered."""
    order, num = cluster(cells, len(names)), len(names)
    with canvas(COLUMN) as figure:
        axes = figure.subplots()
        dress(axes)
        axes.set(xlim=(-0.5, num - 0.5), ylim=(num - 0.5, -0.5), aspect="equal", xlabel="guess", ylabel="label")
        for label, guess, images, share in cells:
            across, down, colour = order.index(guess), order.index(label), MARK if label == guess else WARN
            # Pale enough for the numbers on it.
            look = {"color": colour, "alpha": 0.12 + 0.33 * share**0.5, "linewidth": 0}
            said = f"{names[label]} → {names[guess]}: {images} ({100 * share:.1f} %)"
            _add_cell(axes, down, across, said, str(images) if num <= _MOST_NUMBERED else "", **look)
        shown = [names[own] if len(names[own]) <= _LONGEST else f"{names[own][: _LONGEST - 1]}…" for own in order]
        axes.set_xticks(range(num), shown, rotation=90)
        axes.set_yticks(range(num), shown)
        axes.tick_params(labelsize=9 if num <= _MOST_NUMBERED else 6.5)
        # A line would cross the numbers.
        axes.grid(visible=num > _MOST_NUMBERED)
        wrong = [one for one in cells if one.label != one.guess][:_NUM_SPOKEN]
        most = (f"{one.images} of {names[one.label]} taken for {names[one.guess]}" for one in wrong)
        caption = _CAPTION.format(split=split)
        return draw("confusion", figure, caption, f"{caption} Most often: {'; '.join(most) or 'no error'}.")


def cluster(cells: Sequence[Cell], num_classes: int) -> list[int]:
    """Returns the classes in an order in which those that are confused stand side by side."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if num_classes < 2:
        return [0]
    apart = np.ones((num_classes, num_classes)) - np.eye(num_classes)
    for one in cells:
        if one.label != one.guess:
            apart[[one.label, one.guess], [one.guess, one.label]] -= one.share / 2
    tree = linkage(squareform(apart, checks=False), "average", optimal_ordering=True)
    return [int(own) for own in leaves_list(tree)]


def pairs_chart(names: Sequence[str], below: NDArray[np.float64], above: NDArray[np.float64], caption: str) -> Drawing:
    """Draws a cell for each two of `names`, of two symmetric matrices, that `below` the diagonal in percent."""
    from matplotlib.colors import to_rgb

    num, apart, step = len(names), ~np.eye(len(names), dtype=bool), 1 + len(names) // 20
    kinds = [(matrix, np.nanmax([1e-9, *matrix[apart]])) for matrix in (below, above)]
    colours = (MARK, *member_colours([False]))
    with canvas(0.4 + min(3.8, 0.5 * num)) as figure:
        axes = figure.subplots()
        dress(axes)
        axes.grid(visible=False)
        for at, own in enumerate((np.tri(num, k=-1), np.tri(num, k=-1).T) if num > _MOST_CELLS else ()):
            opacity = 0.45 * own * np.nan_to_num(kinds[at][0]).clip(0) / kinds[at][1]
            painted = np.dstack([np.full((num, num, 3), to_rgb(colours[at])), opacity])
            axes.imshow(painted, extent=(0.5, num + 0.5, num + 0.5, 0.5))
        for row, column in (1 + np.argwhere(apart)).tolist() if num <= _MOST_CELLS else ():
            (matrix, largest), colour = kinds[row < column], colours[row < column]
            value = matrix[row - 1, column - 1]
            face = (colour, 0.45 * max(np.nan_to_num(value), 0) / largest)
            text = "–" if np.isnan(value) else f"{value:.1f}" if row > column else f"{value:.2f}"
            said = f"{names[row - 1]}, {names[column - 1]}: {text}{' %' * (row > column)}"
            _add_cell(axes, row, column, said, text if num <= _MOST_NUMBERED else "", facecolor=face, edgecolor=CARD)
        axes.set_yticks(range(1, num + 1, step), [f"{names[at]}  {at + 1}" for at in range(0, num, step)])
        axes.set(xlim=(0.5, num + 0.5), ylim=(num + 0.5, 0.5), aspect="equal", xticks=range(1, num + 1, step))
        return draw("disagreement", figure, caption)


def _add_cell(axes: "Axes", row: int, column: int, said: str, text: str, **look: Any) -> None:
    """Adds a cell that shows `text` and says more under the pointer."""
    from matplotlib.patches import Rectangle

    hover(axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **look)), said)
    if text:
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=INK)
