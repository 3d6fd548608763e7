"""Draws lines: how members learned, and how the error falls with their number."""

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.report.figures.drawing import INK, MARK, Drawing, canvas, draw, dress, hover, member_colours

# Of members, whose shades alone would not tell them apart; of more than these, hovering does.
_SIGNS = "osD^vPX<>*hp"
Lines = Mapping[str, Mapping[float, float]]


def lines_chart(
    name: str, axis: str, label: str, lines: Lines, kinds: Sequence[bool], starts: Iterable[float] = ()
) -> Drawing:
    """Draws members of `kinds` (whether pre-trained), then up to two thick lines, and dotted ones at `starts`."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    scale, few = 100 if label.endswith("%") else 1, len(kinds) <= len(_SIGNS)
    looks = [*zip(member_colours(kinds), _SIGNS if few else "." * len(kinds), strict=False), (INK, "D"), (MARK, "o")]
    values = [scale * value for line in lines.values() for value in line.values()]
    low, spoken = min((value for value in values if value > 0), default=1) / 2, list[str]()
    with canvas(3 + 0.17 * (len(lines) // 3 if few else 0)) as figure:
        axes = figure.subplots()
        dress(axes)
        for place, ((text, line), (colour, sign)) in enumerate(zip(lines.items(), looks, strict=False)):
            is_thick, shown, every = place >= len(kinds), [scale * value for value in line.values()], 1 + len(line) // 8
            (drawn,) = axes.plot([*line], [max(value, low) for value in shown], color=colour, marker=sign, markersize=4)
            drawn.set(
                linewidth=1.9 if is_thick else 1.1,
                label=text if few or is_thick else "_" if place else f"{len(kinds)} members",
            )
            drawn.set_markevery((place % every, every))
            spoken.append(f"{text}: {shown[-1]:.4g}{' %' * (scale > 1)} at the end")
            hover(drawn, spoken[-1])
        for start in starts:
            axes.axvline(start, color=INK, linewidth=0.7, linestyle=":", alpha=0.35)
        axes.set(yscale="log", xlabel=axis, ylabel=label, ylim=(low if min(values) <= 0 else None, None))
        parts = (1, 2, 5) if max(values) < 2000 * low else (1,)
        axes.yaxis.set_major_locator(MaxNLocator(5) if max(values) < 6 * low else LogLocator(subs=parts))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.5g}")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8, labelcolor=INK)
        zeros = "; 0 is at the lower edge" if min(values) <= 0 else ""
        caption = f"{label.removesuffix(', %').capitalize()} by {axis}, on a log scale{zeros}."
        return draw(name, figure, caption, f"{caption} {'; '.join(spoken[-14:])}.")
