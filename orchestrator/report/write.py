"""Writes RUN_DIR/report from scores and files on disk: scores.json, table.md, figures and the page."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.combine import Missing
from orchestrator.report import course, gallery, pictures, summary, worth
from orchestrator.report.classes import by_class
from orchestrator.report.evidence import Evidence, Valued
from orchestrator.report.figures import lines_chart
from orchestrator.report.page import render
from orchestrator.report.sections import Section, to_markdown
from orchestrator.report.table import SplitScores, split_json
from orchestrator.text import counted
from workers.storage import write_bytes, write_json, write_text

if TYPE_CHECKING:
    from orchestrator.fitting import LabelIssues

# The keys of what table.md has.
_IN_MARKDOWN = ("table", "number")
# The parts of the page, in its order.
PARTS: tuple[Callable[[Evidence], Section | None], ...] = (
    summary.headline,
    summary.tables,
    gallery.reliability,
    pictures.errors,
    pictures.disputed,
    pictures.examples,
    pictures.neighbours,
    pictures.doubtful,
    by_class,
    worth.number,
    worth.disagreement,
    course.course,
    course.schedule,
    gallery.kernels,
    gallery.sheets,
    summary.members,
    summary.settings,
    summary.again,
)


def load_libraries() -> None:
    """Loads in advance what the first figure would load, which takes half a second."""
    lines_chart("none", "", "", {"none": {0.0: 1.0}}, ())


def write_report(evidence: Evidence) -> tuple[Path, ...]:
    """Writes the report of the plan's members, which are present, and returns its files, index.html last."""
    paths, plan, main = evidence.paths, evidence.plan, evidence.main
    sections = tuple(section for part in PARTS if (section := part(evidence)) is not None)
    under = [counted(len(plan.members), "member"), counted(len(evidence.data.classes), "class")]
    if main:
        under.append(f"scored on {counted(main.num_images, f'{main.split} image')}")
    shown = pictures.find_pictures(evidence, sections)
    figures = _write_figures(evidence, sections)
    tables = [to_markdown(one) for one in sections if one.key in _IN_MARKDOWN]
    write_text(paths.report_table, f"# {plan.experiment}\n\n" + "\n".join(tables))
    if evidence.scores:
        issues = evidence.review.issues if evidence.review else None
        said = scores_json(evidence.scores, evidence.caveats.missing, evidence.worth, issues)
        parts = {one.key: dict(one.numbers) for one in sections if one.numbers}
        write_json(paths.report_scores, said | ({"parts": parts} if parts else {}))
    else:
        # Of a launch before a refit joined.
        paths.report_scores.unlink(missing_ok=True)
    title = f"{plan.experiment}: an ensemble of {len(plan.members)}"
    write_text(paths.report_page, render(title, ", ".join(under), sections, shown))
    numbered = (paths.report_scores,) if evidence.scores else ()
    if not evidence.review:
        # Of a submission that had the members of all folds. The list stays: a person may have filled it in.
        paths.review_page.unlink(missing_ok=True)
    review = (evidence.review.table, evidence.review.page) if evidence.review else ()
    return (*figures, paths.report_table, *numbered, *review, paths.report_page)


def scores_json(
    scores: Sequence[SplitScores], missing: Sequence[Missing], valued: Valued | None, issues: "LabelIssues | None"
) -> dict[str, Any]:
    """Returns the content of scores.json but for `parts`; the first of `scores` is the main split.

    The keys `missing`, `worth` and `review` exist only if a member is missing, if there are two members, and if there
    are out-of-fold predictions.
    """
    main, *others = map(split_json, scores)
    more: dict[str, Any] = {
        "missing": [asdict(one) for one in missing],
        "worth": valued and worth.worth_json(valued),
        "review": issues
        and {"num_images": issues.num_images, "num_issues": len(issues.rows), "num_wrong": issues.num_wrong},
    }
    return main | {"splits": {one["split"]: one for one in others}} | {key: own for key, own in more.items() if own}


def _write_figures(evidence: Evidence, sections: tuple[Section, ...]) -> tuple[Path, ...]:
    """Writes all drawings, pictures and numbers as files, and deletes those that the report no longer has."""
    figure, files = evidence.paths.figure, dict[Path, bytes]()
    for section in sections:
        for one in section.drawings:
            files |= {figure(one.name): one.png, figure(one.name, "svg"): one.svg}
        files |= {figure(name): png for name, png in section.pictures.items()}
        files |= {figure(name, "csv"): _csv(lines) for name, lines in section.csv.items()}
    for path, content in files.items():
        write_bytes(path, content)
    for old in figure("").parent.glob("*.*"):
        if old not in files and old.suffix in (".png", ".svg", ".csv"):
            old.unlink()
    return tuple(files)


def _csv(lines: Sequence[Sequence[object]]) -> bytes:
    """Returns lines of csv, texts in quotes and numbers with six digits."""
    text = io.StringIO()
    rounded = ([round(one, 6) if isinstance(one, float) else one for one in line] for line in lines)
    csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerows(rounded)
    return text.getvalue().encode()
