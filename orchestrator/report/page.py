"""Renders report/index.html, one self-contained page, from sections and page.html.j2. Pure."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from orchestrator.report.figures import PALETTE
from orchestrator.report.sections import Section


@dataclass(frozen=True)
class Page:
    """The content of the page, in its order; `under` stands below the title."""

    title: str
    under: str
    sections: tuple[Section, ...]


def environment() -> Environment:
    """Returns where the templates of pages are; they escape every name."""
    made = Environment(
        loader=PackageLoader("orchestrator.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["palette"] = PALETTE
    return made


def render(page: Page) -> str:
    """Renders the page as HTML and escapes every name."""
    return environment().get_template("page.html.j2").render(page=page, halves=_halves(page.sections))


def _halves(sections: Sequence[Section]) -> frozenset[str]:
    """Returns the keys of the sections that share a row of a wide page: neighbours with one drawing and no table."""

    def has_one_drawing(one: Section) -> bool:
        return len(one.drawings) == 1 and not (one.facts or one.tables or one.cards or one.details)

    found: list[str] = []
    for pair in itertools.pairwise(sections):
        if all(map(has_one_drawing, pair)) and pair[0].key not in found:
            found += [one.key for one in pair]
    return frozenset(found)
