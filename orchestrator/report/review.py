"""Writes the images whose label may be wrong: report/review.csv, for a person to fill in, and a page of pictures."""

import base64
import csv
import io
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config import TARGET, quoted
from orchestrator.plan import Plan
from orchestrator.report.page import environment
from orchestrator.run import RunData, RunPaths, RunRecord
from workers.errors import StorageError
from workers.settings import OUT_OF_FOLD
from workers.storage import storage_errors, write_bytes, write_text

if TYPE_CHECKING:
    from orchestrator.fitting import LabelIssues

_HEADER = ("id", "label", "suggestion", "label_probability", "suggestion_probability", "correct")
# What tells one list from another: a spreadsheet may write numbers in another form.
_SAME = 3
_MOST_SHOWN = 60
# Needs no quotes in an override.
_PLAIN = re.compile(r"[\w./ -]+")
Line = tuple[str, ...]


@dataclass(frozen=True)
class Review:
    """What was written of `issues`: the csv file, the page, and a line about them."""

    table: Path
    page: Path
    line: str
    issues: "LabelIssues"


def write_review(paths: RunPaths, plan: Plan, record: RunRecord, data: RunData, issues: "LabelIssues") -> Review:
    """Writes both files. A csv file in which something was filled in stays, and another list goes beside it."""
    rows = data.splits[OUT_OF_FOLD].rows
    named = zip(issues.rows.tolist(), issues.labels.tolist(), issues.suggestions.tolist(), strict=True)
    names = [(rows[row], data.classes[label], data.classes[other]) for row, label, other in named]
    shares = zip(issues.label_probabilities.tolist(), issues.suggestion_probabilities.tolist(), strict=True)
    lines = [(*own, f"{one:.6f}", f"{other:.6f}", "") for own, (one, other) in zip(names, shares, strict=True)]
    table = _write_table(paths, lines)
    places = [f"train/{row}" for row in issues.rows[:_MOST_SHOWN].tolist()]
    pictures = thumbnails(record.stores.get(TARGET), data.digest, places)
    words = [word for word in record.command if not word.startswith("run_dir=")] or ["septet", "launch", "…"]
    # A file of this list alone, in place of the one before, would take back the corrections that this run has.
    corrected = "relabel" in plan.target.options
    given = str(table.absolute())
    relabel = f"datasets.{TARGET}.relabel={given if _PLAIN.fullmatch(given) else quoted(given)}"
    page: dict[str, Any] = {
        "title": f"{record.experiment}: labels to review",
        "issues": issues,
        "table": table,
        "cards": [(line, pictures.get(place)) for place, line in zip(places, lines, strict=False)],
        "directory": record.directory,
        "corrected": corrected,
        "command": shlex.join(words if corrected else [*words, relabel]),
    }
    write_text(paths.review_page, environment().get_template("review.html.j2").render(page))
    beside = "" if table == paths.review(1) else f"; {paths.review(1).name} has answers and stays as it is"
    line = f"REVIEW: {issues.line()} (report/{table.name}, report/{paths.review_page.name}{beside})."
    return Review(table, paths.review_page, line, issues)


def _write_table(paths: RunPaths, lines: Sequence[Line]) -> Path:
    """Returns the first file that has this list already, or that nobody filled in, which is then written."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_HEADER, *lines])
    content, number = text.getvalue(), 1
    while (found := _filled_in(paths.review(number))) is not None:
        if [line[:_SAME] for line in found] == [line[:_SAME] for line in (_HEADER, *lines)]:
            return paths.review(number)
        number += 1
    # Spreadsheets take a file without the mark for another encoding.
    write_bytes(paths.review(number), content.encode() if content.isascii() else content.encode("utf-8-sig"))
    return paths.review(number)


def _filled_in(path: Path) -> list[Line] | None:
    """Returns the lines of a csv file that a person has changed; None if there is none, or only our own."""
    if not path.exists():
        return None
    with storage_errors(path):
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    delimiter = ";" if ";" in text.partition("\n")[0] else ","
    try:
        found = [tuple(line) for line in csv.reader(io.StringIO(text), delimiter=delimiter)]
    except csv.Error:
        return []
    is_ours = found[:1] == [_HEADER] and all(len(line) == len(_HEADER) and not line[-1] for line in found[1:])
    return None if is_ours else found


def thumbnails(store: str | None, digest: str, places: Sequence[str]) -> dict[str, str]:
    """Returns images as data URIs by their places, such as `test/12`; none without the prepared dataset of `digest`."""
    # Imported here, since a report without pictures needs no Pillow.
    from workers.data.export import thumbnail
    from workers.data.store import open_store

    try:
        opened = open_store(Path(store)) if store else None
        if opened is None or opened.digest != digest:
            return {}
        parts = ((place, *place.split("/")) for place in places)
        found = ((place, thumbnail(opened.images(split)[int(row)])) for place, split, row in parts)
        return {at: f"data:image/{kind};base64,{base64.b64encode(own).decode()}" for at, (kind, own) in found}
    except StorageError:
        return {}
