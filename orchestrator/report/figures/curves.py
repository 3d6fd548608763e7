"""Draws members' learning curves."""

from collections.abc import Sequence

from orchestrator.report.curves import Curve
from orchestrator.report.figures.drawing import INK, Drawing, canvas, draw, dress, hover, member_colours

_CAPTION = "Top-1 error of every member by epoch; a dotted line marks where a member's next stage begins."
_MOST_NAMED = 12


def learning_curves(curves: Sequence[Curve]) -> Drawing:
    """Draws training and validation top-1 error of all members by epoch; dotted lines mark the starts of stages."""
    from matplotlib.ticker import MaxNLocator

    with canvas(5) as figure:
        left, right = figure.subplots(2, 1, sharex=True, sharey=True)
        colours = member_colours([curve.pretrained for curve in curves])
        for axes, title in ((left, "training (augmented)"), (right, "validation")):
            dress(axes, title)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.set_ylabel("top-1 error, %")
        for curve, colour in zip(curves, colours, strict=True):
            for axes, series in ((left, curve.train), (right, curve.val)):
                # A member with a single epoch is shown as a point.
                marker = "o" if len(series.epochs) == 1 else ""
                errors = [100 * error for error in series.errors]
                look = {"color": colour, "linewidth": 1.4, "marker": marker, "markersize": 4, "label": curve.member}
                (line,) = axes.plot(series.epochs, errors, **look)
                if errors:
                    hover(line, f"{curve.member}: {errors[-1]:.2f} % at the end")
            for start in set(curve.starts):
                for axes in (left, right):
                    axes.axvline(start, color=INK, linewidth=0.7, linestyle=":", alpha=0.35)
        left.set_ylim(bottom=0)
        if 0 < len(curves) <= _MOST_NAMED:
            right.legend(frameon=False, fontsize=8, labelcolor=INK, ncols=2)
        return draw("learning_curves", figure, _CAPTION)
