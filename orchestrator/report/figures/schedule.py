"""Draws what ran when in a launch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.report.figures.drawing import CARD, INK, MARK, SOFT, WARN, Drawing, canvas, draw, dress, hover
from orchestrator.text import duration

Kind = Literal["last stage", "earlier stage", "prediction", "failed", "cut short", "kept checkpoint"]
# Colours of bars and of their edges, and hatches.
_LOOKS = {"last stage": ("#3a6fb5", CARD, ""), "earlier stage": ("#c08034", CARD, ""), "prediction": (MARK, CARD, "")}
_LOOKS |= {"kept checkpoint": (INK, INK, ""), "failed": (CARD, WARN, "xxxxx"), "cut short": (CARD, SOFT, "////")}


@dataclass(frozen=True)
class Stretch:
    """An attempt or a checkpoint, from `begin` to `end` in Unix seconds; hovering says `text`."""

    row: str
    kind: Kind
    begin: float
    end: float
    text: str


def schedule_chart(name: str, stretches: Sequence[Stretch], caption: str) -> Drawing:
    """Draws a bar for each stretch; between the first one's begin and its own end a row waits where it has none."""
    rows = list(dict.fromkeys(one.row for one in sorted(stretches, key=lambda one: one.begin)))
    start, stop = min(one.begin for one in stretches), max(one.end for one in stretches)
    unit, called = (3600, "hours") if stop - start > 3 * 3600 else (60, "minutes")
    with canvas(1.2 + 0.17 * len(rows)) as figure:
        axes, shown = figure.subplots(), dict[str, Any]()
        dress(axes)
        for one in stretches:
            (face, edge, hatch), row, left = _LOOKS[one.kind], rows.index(one.row), (one.begin - start) / unit
            (bar,) = axes.barh(row, (one.end - one.begin) / unit, 0.62, left, color=face, edgecolor=edge, hatch=hatch)
            hover(bar, one.text)
            shown.setdefault(one.kind, bar)
        for place, label in enumerate(rows):
            own = [one for one in stretches if one.row == label]
            end, worked = max(one.end for one in own) - start, sum(one.end - one.begin for one in own)
            (line,) = axes.plot([0, end / unit], [place, place], ":", color=SOFT, linewidth=1, zorder=0.5)
            hover(line, f"{label} waited {duration(max(0, end - worked))} in all")
        axes.set_yticks(range(len(rows)), rows, fontsize=9 if len(rows) <= 25 else 7)
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=f"{called} since the first attempt")
        axes.grid(visible=False, axis="y")
        below: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "frameon": False, "fontsize": 8}
        figure.legend([*shown.values(), line], [*shown, "waiting"], labelcolor=INK, **below)
        return draw(name, figure, caption)
