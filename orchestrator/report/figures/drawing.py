"""Draws a figure once, for light and dark pages alike: as SVG whose colours are the page's, and as files.

A figure is drawn in the light colours of `PALETTE`. In the SVG on the page each of them becomes the page's variable of
that name, so one drawing follows the reader's scheme. Members' colours can be read on both grounds.
"""

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The page's colours by the names of their variables: in light, in dark.
PALETTE = MappingProxyType(
    {
        "page": ("#f5f6f8", "#0d1117"),
        "card": ("#ffffff", "#161b22"),
        "ink": ("#1f2733", "#d8dee9"),
        "soft": ("#5c6776", "#95a1b2"),
        "line": ("#e3e7ee", "#2c3440"),
        "mark": ("#0f7b5f", "#3ec79f"),
        "warn": ("#a34a00", "#f0a860"),
    }
)
CARD, INK, SOFT, LINE, MARK, WARN = (PALETTE[name][0] for name in ("card", "ink", "soft", "line", "mark", "warn"))
# At least 3 : 1 against both cards (WCAG 1.4.11), from dark to light: members, and members with pre-training.
_BASE, _PRETRAINED = ("#3a6fb5", "#5f94d6"), ("#a8600f", "#c08034")
# Inches. At 360 pixels a figure of this width shrinks to seven tenths and stays readable; a wide page shows two.
COLUMN = 4.4
_HOVER = "hover-"
_DPI = 150


@dataclass(frozen=True)
class Drawing:
    """A figure: `inline` is an SVG element for the page, `svg` and `png` are the contents of files.

    `spoken` says in words what can be seen, for those who cannot see it; `name` is that of the files.
    """

    name: str
    caption: str
    spoken: str
    inline: str
    svg: bytes
    png: bytes


@contextmanager
def canvas(height: float) -> "Iterator[Figure]":
    """Yields an empty figure of `COLUMN` × `height` inches, to be filled and drawn inside: no display, no global state.

    Text stays text in SVG: it can be selected, read out and enlarged. A name with two dollar signs is no formula.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "text.parse_math": False}):
        yield Figure(figsize=(COLUMN, height), layout="constrained", facecolor=CARD)


def dress(axes: "Axes") -> None:
    """Gives axes the page's look: a light grid, no frame."""
    axes.set_facecolor(CARD)
    axes.grid(visible=True, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, labelcolor=INK, labelsize=9, length=0)
    axes.xaxis.label.set(color=INK, fontsize=9.5)
    axes.yaxis.label.set(color=INK, fontsize=9.5)
    for side in axes.spines.values():
        side.set_visible(False)


def hover(artist: "Artist", text: str) -> None:
    """Makes an artist say `text` while the pointer is over it; the text travels in the artist's id, as hex digits."""
    artist.set_gid(_HOVER + text.encode().hex())


def member_colours(pretrained: Sequence[bool]) -> list[str]:
    """Returns a colour for each member: a hue for each kind, a shade for each member."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    colours = []
    for index, kind in enumerate(pretrained):
        shades = LinearSegmentedColormap.from_list("", _PRETRAINED if kind else _BASE)
        place = pretrained[:index].count(kind) / max(1, pretrained.count(kind) - 1)
        colours.append(to_hex(shades(place)))
    return colours


def draw(name: str, figure: "Figure", caption: str, spoken: str = "") -> Drawing:
    """Draws a figure; the same values give the same bytes. Without `spoken`, the caption is read out."""
    from matplotlib import rc_context

    text, picture = io.StringIO(), io.BytesIO()
    # With a salt the ids of clips are the same in every run, and others in each drawing of a page.
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    # It is laid out now, and without an engine that is not done again.
    figure.set_layout_engine(None)
    # Without the software version the same numbers give the same bytes.
    figure.savefig(picture, format="png", dpi=_DPI, metadata={"Software": None})
    svg, said = _titled(text.getvalue()), spoken or caption
    return Drawing(name, caption, said, _inlined(svg, said), svg.encode(), picture.getvalue())


def _titled(svg: str) -> str:
    """Turns ids that `hover` gave into titles, and drops ids that nothing refers to."""
    svg = re.sub(rf'<g id="{_HOVER}(\w*)">', lambda found: f"<g><title>{_unhexed(found[1])}</title>", svg)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    return re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)


def _unhexed(digits: str) -> str:
    return html.escape(bytes.fromhex(digits).decode(), quote=False)


def _inlined(svg: str, spoken: str) -> str:
    """Returns the SVG element alone, with the page's variables as colours and a width that follows the page."""
    element = svg[svg.index("<svg") :]
    # A style would hold for the whole page, and a comment repeats the text that follows it.
    element = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", element, flags=re.DOTALL)
    element = re.sub(r" font-family: [^;]+;", "", element)
    size = re.search(r'width="([\d.]+)pt" height="[\d.]+pt"', element)
    assert size, "matplotlib gives an SVG its size in points"
    width = f'style="max-width: {float(size[1]) * 5 / 3:.0f}px" stroke-linejoin="round"'
    shown = f'class="plot" {width} role="img" aria-label="{html.escape(spoken)}"'
    element = element.replace(size[0], shown, 1)
    for colour, (light, _) in PALETTE.items():
        element = element.replace(light, f"var(--{colour})")
    return element
