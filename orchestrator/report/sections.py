"""Describes parts of the page as values: facts, drawings, tables, cards with pictures, and notes. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from orchestrator.report.figures import Drawing


class Link(NamedTuple):
    """A text that leads to an address, or to a path from the report."""

    text: str
    to: str


@dataclass(frozen=True)
class Table:
    """A table: `lines` have as many cells as `header`; the first column names the line.

    The first `num_texts` columns are texts, all others numbers. `marked` are the indices of lines that stand out, for a
    reason that `notes`, below the table, give.
    """

    header: tuple[str, ...]
    lines: tuple[tuple[str | Link, ...], ...]
    caption: str = ""
    notes: tuple[str, ...] = ()
    marked: tuple[int, ...] = ()
    num_texts: int = 1


@dataclass(frozen=True)
class Guess:
    """A class and its probability in [0, 1]; `right` if it is the image's label."""

    name: str
    probability: float
    right: bool = False


@dataclass(frozen=True)
class Card:
    """A picture (a data URI) with lines of text below it and, where given, bars of the likeliest classes.

    `spoken` is the picture's alternative text. `others` are smaller pictures beside it, each with its text.
    """

    picture: str
    spoken: str
    lines: tuple[str, ...] = ()
    guesses: tuple[Guess, ...] = ()
    others: tuple["Card", ...] = ()


@dataclass(frozen=True)
class Fact:
    """A value with its name and, below it, what qualifies it."""

    name: str
    value: str | Link
    more: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page; what is empty is not shown. `key` is its anchor.

    Large facts stand first, then drawings, tables, cards, each at least `card_width` rem wide, `details` and notes.
    With the page are written: `pictures` (PNGs) and `csv` (lines of texts and numbers) as report/figures/NAME.png and
    .csv, and `numbers`, small ones alone, at the end of scores.json, below `parts` and `key`.
    """

    key: str
    title: str
    drawings: tuple[Drawing, ...] = ()
    tables: tuple[Table, ...] = ()
    cards: tuple[Card, ...] = ()
    notes: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    details: tuple[Fact, ...] = ()
    card_width: float = 9
    pictures: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    csv: Mapping[str, Sequence[Sequence[object]]] = field(default_factory=lambda: MappingProxyType({}))
    numbers: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def to_markdown(section: Section) -> str:
    """Returns a section's tables and notes in Markdown, ending in a newline; names of marked lines are bold."""
    blocks = list[str]()
    for one in section.tables:
        # An asterisk would start emphasis.
        header, *lines = ([str(cell).replace("*", "\\*") for cell in line] for line in (one.header, *one.lines))
        for place in one.marked:
            lines[place][0] = f"**{lines[place][0]}**"
        rows = (header, [":---", *["---:"] * (len(header) - 1)], *lines)
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        blocks += [f"## {one.caption or section.title}", table, *_listed(one.notes)]
    return "\n\n".join([*blocks, *_listed(section.notes)]) + "\n"


def _listed(notes: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {note}" for note in notes)] if notes else []
