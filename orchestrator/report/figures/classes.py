"""Draws which classes the ensemble takes for which."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from orchestrator.report.figures.drawing import COLUMN, INK, MARK, WARN, Drawing, canvas, draw, dress, hover

_CAPTION = (
    "What the ensemble takes {split} images for: a row a label, a column a guess; what is confused stands side by "
    "side. The stronger the colour, the larger the share of the label's images."
)
_MOST_NUMBERED, _LONGEST, _NUM_SPOKEN = 15, 18, 5


class Cell(NamedTuple):
    """So many images of a class, by its index, were guessed to be of another, and their `share` of the class's."""

    label: int
    guess: int
    images: int
    share: float


def confusion_matrix(cells: Sequence[Cell], names: Sequence[str], split: str) -> Drawing:
    """Draws `cells`, most frequent first, as a matrix of all classes, clustered."""
    from matplotlib.patches import Rectangle

    order, num = cluster(cells, len(names)), len(names)
    with canvas(COLUMN) as figure:
        axes = figure.subplots()
        dress(axes)
        axes.set(xlim=(-0.5, num - 0.5), ylim=(num - 0.5, -0.5), aspect="equal", xlabel="guess", ylabel="label")
        for label, guess, images, share in cells:
            across, down, colour = order.index(guess), order.index(label), MARK if label == guess else WARN
            # Pale enough for the numbers on it.
            look = {"color": colour, "alpha": 0.12 + 0.33 * share**0.5, "linewidth": 0}
            patch = axes.add_patch(Rectangle((across - 0.5, down - 0.5), 1, 1, **look))
            hover(patch, f"{names[label]} → {names[guess]}: {images} ({100 * share:.1f} %)")
            if num <= _MOST_NUMBERED:
                axes.text(across, down, str(images), ha="center", va="center", fontsize=8, color=INK)
        shown = [names[own] if len(names[own]) <= _LONGEST else f"{names[own][: _LONGEST - 1]}…" for own in order]
        axes.set_xticks(range(num), shown, rotation=90)
        axes.set_yticks(range(num), shown)
        axes.tick_params(labelsize=9 if num <= _MOST_NUMBERED else 6.5)
        wrong = [one for one in cells if one.label != one.guess][:_NUM_SPOKEN]
        said = (f"{one.images} of {names[one.label]} taken for {names[one.guess]}" for one in wrong)
        caption = _CAPTION.format(split=split)
        return draw("confusion", figure, caption, f"{caption} Most often: {'; '.join(said) or 'no error'}.")


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
