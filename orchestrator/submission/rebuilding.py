"""Finds what a written submission answers, and compares the file with one made again from predictions.

Nothing is written: lines are made a block at a time and compared with the file's bytes.
"""

import csv
from pathlib import Path

from orchestrator.combine import Rows
from orchestrator.run import RunData
from orchestrator.submission.formats import (
    Layout,
    Question,
    Template,
    file_lines,
    is_csv,
    make_layout,
    read_class_ids,
    read_template,
    text_of,
)
from orchestrator.submission.manifest import Manifest, NamedFile
from orchestrator.submission.write import question_of
from workers.errors import CheckFailed
from workers.storage import sha256_of

_SHOWN_BYTES = 60


def asked_by(manifest: Manifest, data: RunData, submission: Path) -> tuple[Question, str | None]:
    """Returns the submission's question, from the manifest, the run's data and the files named in the manifest.

    If the template is gone or changed, the submission's own ids and columns replace it, and a note, the second value,
    says so.

    Raises:
        CheckFailed: the names of the classes in the file are no longer known.
        ConfigError: ids, classes and format do not fit together.
    """
    class_ids, template, note = manifest.class_names, None, None
    if manifest.class_ids_file is not None and class_ids is None:
        text = _unchanged(manifest.class_ids_file)
        if text is None:
            raise CheckFailed(
                f"{manifest.class_ids_file.path}: missing or changed since the submission was written, so it cannot "
                "be made again: restore that file"
            )
        class_ids = read_class_ids(text, manifest.class_ids_file.path)
    if manifest.template is not None:
        text = _unchanged(manifest.template)
        if text is None:
            with submission.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                lines = csv.reader(file)
                template = Template(tuple(next(lines, [])), tuple(line[0] for line in lines if line))
            note = (
                f"{manifest.template.path}: missing or changed, so ids, order and columns were taken from the "
                "submission itself"
            )
        else:
            template = read_template(text, manifest.template.path)
    return question_of(manifest.format, data, template, class_ids), note


def _unchanged(file: NamedFile) -> str | None:
    try:
        if sha256_of(Path(file.path)) == file.sha256:
            return text_of(Path(file.path).read_bytes(), file.path)
    except OSError:
        pass
    return None


def first_difference(submission: Path, question: Question, rows: Rows) -> str | None:
    """Returns where the file first differs from the combined `rows`, or None if it is equal byte for byte."""
    number = 0
    with submission.open("rb") as file:
        for number, line in enumerate(file_lines(question, make_layout(question), rows), start=1):
            wanted = line.encode(errors="surrogateescape")
            if (found := file.read(len(wanted))) != wanted:
                return f"line {number} is {_shown(found)}, where the predictions give {_shown(wanted)}"
        if surplus := file.read(_SHOWN_BYTES):
            return f"after its last line, {number}, it has {_shown(surplus)}"
    return None


def _shown(content: bytes) -> str:
    text = content[:_SHOWN_BYTES].decode(errors="replace").rstrip("\n")
    return repr(text + ("…" if len(content) > _SHOWN_BYTES else ""))


def line_number(question: Question, layout: Layout, index: int) -> int:
    """Returns the number, from 1, of the first line of answer `index` in the layout; ids may contain line feeds."""
    before = [*layout.header, *(layout.ids[:index] if is_csv(question.format) else ())]
    return 1 + (1 if layout.header else 0) + index + sum(text.count("\n") for text in before)
