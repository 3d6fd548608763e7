"""Describes parts of the page as values: a title over drawings, tables, cards with pictures, and notes. Pure."""

from dataclasses import dataclass

from orchestrator.report.figures import Drawing


@dataclass(frozen=True)
class Table:
    """A table: `lines` have as many cells as `header`; the first column names the line."""

    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    caption: str = ""


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
class Section:
    """A part of the page; what is empty is not shown. `key` is its anchor and its place in the page's order."""

    key: str
    title: str
    drawings: tuple[Drawing, ...] = ()
    tables: tuple[Table, ...] = ()
    cards: tuple[Card, ...] = ()
    notes: tuple[str, ...] = ()
