"""Writes RUN_DIR/report from scores and files on disk: scores.json, table.md, figures and the page."""

from collections.abc import Callable
from pathlib import Path

from orchestrator.report import gallery, summary
from orchestrator.report.evidence import Evidence
from orchestrator.report.page import Page, render
from orchestrator.report.sections import Section
from orchestrator.report.table import scores_json, table_text, to_markdown
from orchestrator.report.worth import worth_json, worth_markdown
from orchestrator.text import counted
from workers.storage import write_bytes, write_json, write_text

# The parts of the page, in its order.
PARTS: tuple[Callable[[Evidence], Section | None], ...] = (
    summary.headline,
    summary.tables,
    gallery.beside_averages,
    gallery.reliability,
    summary.worth,
    gallery.curves,
    gallery.kernels,
    gallery.sheets,
    summary.members,
    summary.settings,
    summary.again,
)


def write_report(evidence: Evidence) -> tuple[Path, ...]:
    """Writes the report of the plan's members, which are present, and returns its files, index.html last."""
    paths, plan, main = evidence.paths, evidence.plan, evidence.main
    sections = tuple(section for part in PARTS if (section := part(evidence)) is not None)
    under = [counted(len(plan.members), "member"), counted(len(evidence.data.classes), "class")]
    if main:
        under.append(f"scored on {counted(main.num_images, f'{main.split} image')}")
    page = Page(f"{plan.experiment}: an ensemble of {len(plan.members)}", ", ".join(under), sections)
    figures = _write_figures(evidence, sections)
    tables = [to_markdown(scores, evidence.caveats) for scores in evidence.scores] or [
        table_text(None, evidence.caveats)
    ]
    if evidence.worth:
        tables.append(worth_markdown(evidence.worth))
    write_text(paths.report_table, f"# {plan.experiment}\n\n" + "\n".join(tables))
    if evidence.scores:
        worth = worth_json(evidence.worth) if evidence.worth else None
        counts = evidence.review.counts if evidence.review else None
        said = scores_json(evidence.scores, evidence.caveats.missing, worth, counts)
        parts = {one.key: dict(one.numbers) for one in sections if one.numbers}
        write_json(paths.report_scores, said | ({"parts": parts} if parts else {}))
    else:
        # Of a launch before a refit joined.
        paths.report_scores.unlink(missing_ok=True)
    write_text(paths.report_page, render(page))
    numbered = (paths.report_scores,) if evidence.scores else ()
    if not evidence.review:
        # Of a submission that had the members of all folds. The list stays: a person may have filled it in.
        paths.review_page.unlink(missing_ok=True)
    review = (evidence.review.table, evidence.review.page) if evidence.review else ()
    return (*figures, paths.report_table, *numbered, *review, paths.report_page)


def _write_figures(evidence: Evidence, sections: tuple[Section, ...]) -> tuple[Path, ...]:
    """Writes all drawings, pictures and numbers as files, and deletes those that the report no longer has."""
    figure, files = evidence.paths.figure, dict[Path, bytes]()
    for section in sections:
        for one in section.drawings:
            files |= {figure(one.name): one.png, figure(one.name, "svg"): one.svg}
        files |= {figure(name): png for name, png in section.pictures.items()}
        files |= {figure(name, "csv"): text.encode() for name, text in section.csv.items()}
    for path, content in files.items():
        write_bytes(path, content)
    for old in figure("").parent.glob("*.*"):
        if old not in files and old.suffix in (".png", ".svg", ".csv"):
            old.unlink()
    return tuple(files)
