"""report/index.html: one page that needs nothing beside it, from values. Pure.

Images are data URIs, styles are inline, there is no script: it can be mailed, and opens on a phone.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from orchestrator.combine import Missing
from orchestrator.report.table import (
    AT_CHANCE_MARK,
    HEADER,
    SplitScores,
    TableLine,
    percent,
    table_lines,
    table_notes,
    table_title,
)
from orchestrator.text import counted

_STYLE = """
:root{color-scheme:light dark;--page:#f5f6f8;--card:#fff;--ink:#1f2733;--soft:#5c6776;--line:#e3e7ee;--mark:#0f7b5f;
--warn:#a34a00}
@media(prefers-color-scheme:dark){:root{--page:#0d1117;--card:#161b22;--ink:#d8dee9;--soft:#95a1b2;--line:#2c3440;
--mark:#3ec79f;--warn:#f0a860}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:62rem;margin:0 auto;padding:2rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:0}
h2{font-size:1.1rem;margin:0 0 .8rem}
.under{color:var(--soft);margin:.3rem 0 1.5rem}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1.2rem;margin:0 0 1.2rem}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:1rem}
.facts div{display:flex;flex-direction:column}
.facts b{font-size:1.45rem;font-variant-numeric:tabular-nums;line-height:1.3}
.facts small,.note{color:var(--soft);font-size:.85rem}
.note{margin:.6rem 0 0}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.45rem .7rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:500;font-size:.85rem}
th:first-child,td:first-child{text-align:left;padding-left:0}
tr:last-child td{border-bottom:0}
tr.best td{color:var(--mark);font-weight:600}
.warn{color:var(--warn)}
code{font:.85em ui-monospace,SFMono-Regular,Menlo,monospace;overflow-wrap:anywhere}
img{max-width:100%;height:auto;display:block;border-radius:6px}
.kernels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,16rem),1fr));gap:1.2rem}
.kernels img{image-rendering:pixelated;width:100%}
.sheets{display:grid;gap:1.5rem}
figure{margin:0}figcaption{color:var(--soft);font-size:.85rem;margin-top:.35rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.3rem 1rem;margin:0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
pre{background:var(--page);border-radius:8px;padding:.8rem;overflow-x:auto;margin:0 0 1rem}
@media(max-width:40rem){dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.6rem}section{padding:1rem}
th,td{padding:.4rem .35rem;font-size:.82rem}.scores th:nth-child(2),.scores td:nth-child(2){display:none}
picture img,.sheets img{max-width:none;width:38rem}}
"""


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
    """The page as HTML."""
    main = page.scores[0]
    at_chance = [member.name for member in page.members if member.at_chance]
    sections = [
        _headline(main, len(page.members)),
        *(_table(scores, at_chance, page.cuts_saw_val, page.missing) for scores in page.scores),
        _section("Each member beside the averages", _picture(page.errors)),
        _section("Learning curves", _picture(page.curves)),
        _members(page.members, main),
        _kernels(page.members),
        _sheets(page.sheets),
        _reproduction(page),
    ]
    under = f"{counted(len(page.members), 'member')}, {counted(main.num_classes, 'class')}"
    under += f", scored on {counted(main.num_images, f'{main.split} image')}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(page.title)}</h1>\n<p class="under">{escape(under)}</p>\n'
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _headline(main: SplitScores, num_members: int) -> str:
    ensemble = main.ensemble
    single = sum(own.top1_error for own in main.members.values()) / num_members
    facts = [
        ("top-1 error", f"{100 * ensemble.top1_error:.2f} %"),
        ("one member's, on average", f"{100 * single:.2f} %"),
        ("top-5 error", f"{100 * ensemble.top5_error:.2f} %"),
        ("NLL", f"{ensemble.nll:.4f}"),
        ("calibration error", f"{100 * ensemble.ece:.2f} %"),
        ("members disagree on", f"{100 * main.disagreement:.1f} %"),
    ]
    cells = "".join(f"<div><small>{escape(name)}</small><b>{escape(value)}</b></div>" for name, value in facts)
    return _section(f"The ensemble ({main.method})", f'<div class="facts">{cells}</div>')


def _table(scores: SplitScores, at_chance: Sequence[str], cuts_saw_val: bool, missing: Sequence[Missing]) -> str:
    lines = table_lines(scores, at_chance)
    values = [one.score.top1_error for one in scores.rows]
    if len(lines) > len(values):
        values.append(scores.ensemble.top1_error)
    body = "".join(_table_row(line, best=value == min(values)) for line, value in zip(lines, values, strict=True))
    said = table_notes(scores, at_chance, cuts_saw_val=cuts_saw_val, missing=missing)
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in said)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in HEADER.cells)
    table = f'<table class="scores"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return _section(table_title(scores), f'<div class="wide">{table}</div>{notes}')


def _table_row(line: TableLine, *, best: bool) -> str:
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in line.cells)
    return f'<tr class="best">{cells}</tr>' if best else f"<tr>{cells}</tr>"


def _members(members: Sequence[MemberEntry], main: SplitScores) -> str:
    rows = []
    for member in members:
        own = main.members[member.name]
        flag = f' <span class="warn">{AT_CHANCE_MARK} at chance</span>' if member.at_chance else ""
        digest = f'<code title="{escape(member.checkpoint_sha256)}">{escape(member.checkpoint_sha256[:12])}</code>'
        rows.append(
            f"<tr><td>{escape(member.name)}{flag}</td>"
            f"<td>{percent(own.top1_error, main.num_images)}</td><td>{own.nll:.4f}</td>"
            f"<td>{escape(member.stages)}</td><td>{escape(member.checkpoint)}</td>"
            f"<td>{digest}</td></tr>"
        )
    names = ("", "top-1 error", "NLL", "stages", "checkpoint", "sha256")
    head = "".join(f"<th>{name}</th>" for name in names)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return _section("Members", f'<div class="wide">{table}</div>')


def _kernels(members: Sequence[MemberEntry]) -> str:
    figures = [
        f'<figure><img src="{_data_uri(member.kernels)}" alt="conv1 kernels of {escape(member.name)}">'
        f"<figcaption>{escape(member.name)}</figcaption></figure>"
        for member in members
        if member.kernels is not None
    ]
    if not figures:
        return ""
    note = '<p class="note">Sixteen kernels a row; all kernels of a member share one scale.</p>'
    return _section("First-layer kernels", f'<div class="kernels">{"".join(figures)}</div>{note}')


def _sheets(sheets: Sequence[Sheet]) -> str:
    """What was trained on; "" where the run has kept no sheet."""
    figures = "".join(
        f'<figure><div class="wide"><img src="{_data_uri(sheet.png)}" alt="{escape(sheet.caption)}"></div>'
        f"<figcaption>{escape(sheet.caption)}</figcaption></figure>"
        for sheet in sheets
    )
    return _section("The images", f'<div class="sheets">{figures}</div>') if figures else ""


def _reproduction(page: Page) -> str:
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>" for name, value in page.facts.items()
    )
    note = (
        '<p class="note">With the settings of config.yaml in the run directory where they differ from the '
        "experiment's; the same plan hash means the same members, settings, seeds and classes.</p>"
    )
    return _section("How to do it again", f"<pre><code>{escape(page.command)}</code></pre><dl>{facts}</dl>{note}")


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def _picture(picture: Picture) -> str:
    caption = escape(picture.caption)
    dark = f'<source media="(prefers-color-scheme:dark)" srcset="{_data_uri(picture.dark)}">'
    image = f'<img src="{_data_uri(picture.light)}" alt="{caption}">'
    shown = f'<div class="wide"><picture>{dark}{image}</picture></div>'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
