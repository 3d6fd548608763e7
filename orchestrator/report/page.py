"""Renders report/index.html, one self-contained page, from values and page.html.j2. Pure."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from orchestrator.report.figures import PALETTE, Drawing
from orchestrator.report.sections import Section
from orchestrator.report.table import (
    AT_CHANCE_MARK,
    HEADER,
    Caveats,
    SplitScores,
    percent,
    table_lines,
    table_notes,
    table_title,
)
from orchestrator.report.worth import TITLE, Valued, worth_notes, worth_tables
from orchestrator.text import counted


@dataclass(frozen=True)
class Sheet:
    """A contact sheet: a PNG, transparent between its pictures. `caption` is also the alternative text."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class MemberEntry:
    """One member on the page; `stages` like `pretrain → finetune`, `kernels` a PNG or None."""

    name: str
    pretrained: bool
    stages: str
    checkpoint: str
    checkpoint_sha256: str
    kernels: bytes | None


@dataclass(frozen=True)
class Page:
    """The content of the page. The first of `scores`, if any, is the main split; a repetition needs `facts`.

    `review` is a line on labels to review, if there is a page of them."""

    title: str
    scores: tuple[SplitScores, ...]
    caveats: Caveats
    members: tuple[MemberEntry, ...]
    drawings: Mapping[str, Drawing]
    sheets: tuple[Sheet, ...]
    command: str
    facts: Mapping[str, str]
    worth: Valued | None = None
    review: str = ""
    sections: tuple[Section, ...] = ()


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
    templates = environment()
    templates.filters["data_uri"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    template = templates.get_template("page.html.j2")
    main = page.scores[0] if page.scores else None
    return template.render(
        page=page,
        main=main,
        mean_top1_error=sum(own.top1_error for own in main.members.values()) / len(main.members) if main else None,
        notes=() if main else table_notes(page.caveats, None),
        header=HEADER,
        tables=[_table(scores, page.caveats) for scores in page.scores],
        worth=page.worth and (TITLE, worth_tables(page.worth), worth_notes(page.worth)),
        mark=AT_CHANCE_MARK,
        percent=percent,
        counted=counted,
    )


def _table(scores: SplitScores, caveats: Caveats) -> dict[str, Any]:
    """Returns one table's text; `best` are the indices of the lines with the lowest top-1 error."""
    lines = table_lines(scores, caveats)
    averages = [one.score for one in scores.rows] + [scores.ensemble] * bool(scores.combined_as)
    errors = [one.top1_error for one in (*averages, *(student.score for student in scores.students.values()))]
    return {
        "title": table_title(scores),
        "lines": lines,
        "best": [index for index, error in enumerate(errors) if error == min(errors)],
        "notes": table_notes(caveats, scores),
    }
