"""report/index.html: one page that needs nothing beside it, rendered from values through page.html.j2. Pure."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from orchestrator.combine import Missing
from orchestrator.report.table import (
    AT_CHANCE_MARK,
    HEADER,
    SplitScores,
    percent,
    table_lines,
    table_notes,
    table_title,
)
from orchestrator.text import counted


@dataclass(frozen=True)
class Picture:
    """One figure, drawn for a light and for a dark page; `caption` also serves who cannot see it."""

    light: bytes
    dark: bytes
    caption: str


@dataclass(frozen=True)
class Sheet:
    """A contact sheet, a PNG that is transparent between its pictures; `caption` also serves who cannot see it."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class MemberEntry:
    """What the page says of one member; `stages` as `pretrain → finetune`, `kernels` a PNG or None."""

    name: str
    pretrained: bool
    stages: str
    checkpoint: str
    checkpoint_sha256: str
    at_chance: bool
    kernels: bytes | None


@dataclass(frozen=True)
class Page:
    """All that the page shows; the first of `scores` is the main split, `facts` say how to do it again."""

    title: str
    scores: tuple[SplitScores, ...]
    cuts_saw_val: bool
    members: tuple[MemberEntry, ...]
    errors: Picture
    curves: Picture
    sheets: tuple[Sheet, ...]
    command: str
    facts: Mapping[str, str]
    missing: tuple[Missing, ...] = ()


def render(page: Page) -> str:
    """Renders the page as HTML; every name in it is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["data_uri"] = _data_uri
    template = environment.from_string((files("orchestrator.report") / "page.html.j2").read_text(encoding="utf-8"))
    main = page.scores[0]
    at_chance = [member.name for member in page.members if member.at_chance]
    return template.render(
        page=page,
        mean_top1_error=sum(own.top1_error for own in main.members.values()) / len(page.members),
        header=HEADER,
        tables=[_table(page, scores, at_chance) for scores in page.scores],
        mark=AT_CHANCE_MARK,
        percent=percent,
        counted=counted,
    )


def _table(page: Page, scores: SplitScores, at_chance: Sequence[str]) -> dict[str, Any]:
    """One table's text; `best` are the indices of the lines with the lowest top-1 error."""
    lines = table_lines(scores, at_chance)
    errors = [*(one.score.top1_error for one in scores.rows), scores.ensemble.top1_error][: len(lines)]
    return {
        "title": table_title(scores),
        "lines": lines,
        "best": [index for index, error in enumerate(errors) if error == min(errors)],
        "notes": table_notes(scores, at_chance, cuts_saw_val=page.cuts_saw_val, missing=page.missing),
    }


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
