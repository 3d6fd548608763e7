"""Defines each submission format's file, line by line. Pure: values in, text out.

- `ilsvrc` (.txt): up to five class ids (from 1), best first, a line an image (ILSVRC development kit).
- `tiny_imagenet` (.txt): `test_0.JPEG n01443537`.
- `labels` (.csv): `id,label`. `probabilities` (.csv): `id,<class>,<class>…`, each value exact to float32.
- `kaggle_loc` (.csv): `ImageId,PredictionString`; up to five `label 0 0 width height`, the whole image in original
  pixels.

Lines follow the rows of the split, unless a template (a sample submission) gives ids, order and columns.
"""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine import Rows, blocks, gather, top_classes
from orchestrator.config import SubmissionFormat
from orchestrator.run import SUBMISSION_FILES, spelled_as
from workers.errors import ConfigError, some

MAX_GUESSES = 5
# Control characters other than white space: any archive or table of an office program has some.
_NOT_IN_TEXT = re.compile(r"[\x00-\x08\x0e-\x1f]")


@dataclass(frozen=True)
class Template:
    """A sample submission: its header and its ids, in its order."""

    header: tuple[str, ...]
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """The images of a submission in row order, its classes in index order, and their names in the file.

    `rows` are paths below the split, `sizes` (rows, 2) original width and height in pixels. `class_ids` maps a class to
    its name in the file (None: its own name, or in `ilsvrc` its position in `classes`, from 1).
    """

    format: SubmissionFormat
    rows: tuple[str, ...]
    classes: tuple[str, ...]
    sizes: NDArray[np.int32]
    template: Template | None = None
    class_ids: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Layout:
    """The file's header, the id and row index of each line, the name of each class, and the class of each column."""

    header: tuple[str, ...]
    ids: tuple[str, ...]
    order: NDArray[np.int64]
    names: tuple[str, ...]
    columns: tuple[int, ...]


def is_csv(submission_format: SubmissionFormat) -> bool:
    """Returns whether lines are comma-separated under a header."""
    return submission_format not in (SubmissionFormat.ilsvrc, SubmissionFormat.tiny_imagenet)


def file_name(submission_format: SubmissionFormat) -> str:
    """Returns `submission.csv` or `submission.txt`."""
    return SUBMISSION_FILES[is_csv(submission_format)]


def text_of(content: bytes, where: str) -> str:
    """Returns a named file's text: UTF-16 with its mark, else UTF-8, in which a name may hold other bytes.

    Raises:
        ConfigError: it is no text, such as an archive; `where` is for the message.
    """
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16") if is_wide else content.decode("utf-8-sig", errors="surrogateescape")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: damaged UTF-16 ({error.reason}); save it as text in UTF-8") from error
    if strange := _NOT_IN_TEXT.search(text):
        kind = "a zip archive (or .xlsx)" if content.startswith(b"PK") else f"it holds the byte {ord(strange[0]):#04x}"
        raise ConfigError(f"{where}: is not text ({kind}); unpack it, or save it as text in UTF-8")
    return text


def read_template(text: str, where: str) -> Template:
    """Parses a sample submission (csv with a header; the first column holds ids); `where` is for the message."""
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    except csv.Error as error:
        raise ConfigError(f"{where}: not a sample submission ({error}); give a csv with a header") from error
    if len(lines) < 2 or len(lines[0]) < 2:
        raise ConfigError(f"{where}: not a sample submission: give a csv with a header and ids in its first column")
    template = Template(tuple(lines[0]), tuple(line[0] for line in lines[1:]))
    _require_distinct(template.ids, f"{where}: ids of the template")
    _require_distinct(template.header, f"{where}: columns of the template")
    return template


def read_class_ids(text: str, where: str) -> dict[str, str]:
    """Parses lines `class id`; a class may contain spaces, an id may not."""
    pairs = [line.rsplit(None, 1) for line in text.splitlines() if line.strip()]
    short = [" ".join(pair) for pair in pairs if len(pair) != 2]
    if short or not pairs:
        raise ConfigError(f"{where}: give lines `class id`; wrong: {some(short) or 'the file is empty'}")
    _require_distinct([pair[0].strip() for pair in pairs], f"{where}: classes")
    _require_distinct([pair[1] for pair in pairs], f"{where}: ids")
    return {pair[0].strip(): pair[1] for pair in pairs}


def make_layout(question: Question) -> Layout:
    """Returns ids, order, names and columns; raises ConfigError if the format cannot hold them."""
    names = _class_names(question)
    ids, order = _lines_of(question)
    header, columns = _header_of(question, names)
    return Layout(header, ids, order, names, columns)


def file_lines(question: Question, layout: Layout, probabilities: Rows) -> Iterator[str]:
    """Yields the lines of the file with their newlines; `probabilities` (rows, classes) are in row order."""
    if layout.header:
        yield _csv_line(layout.header)
    for part in blocks(len(layout.order), len(layout.names)):
        order = layout.order[part]
        ids = layout.ids[part]
        block = gather(probabilities, order)
        if question.format is SubmissionFormat.probabilities:
            for image_id, row in zip(ids, block[:, layout.columns], strict=True):
                # Nine digits restore every float32 exactly.
                yield _csv_line([image_id, *(f"{value:.9g}" for value in row.tolist())])
            continue
        best = top_classes(block, MAX_GUESSES)
        for image_id, row_index, guesses in zip(ids, order, best, strict=True):
            yield _guess_line(question, image_id, [layout.names[guess] for guess in guesses], int(row_index))


def row_id(submission_format: SubmissionFormat, row: str) -> str:
    """Returns the id of the image whose path below the split is `row`."""
    if submission_format is SubmissionFormat.tiny_imagenet:
        return PurePosixPath(row).name
    if submission_format is SubmissionFormat.kaggle_loc:
        return PurePosixPath(row).stem
    return row


def _guess_line(question: Question, image_id: str, names: Sequence[str], row: int) -> str:
    match question.format:
        case SubmissionFormat.ilsvrc:
            return " ".join(names) + "\n"
        case SubmissionFormat.tiny_imagenet:
            return f"{image_id} {names[0]}\n"
        case SubmissionFormat.labels:
            return _csv_line([image_id, names[0]])
        case _:
            width, height = question.sizes[row]
            return _csv_line([image_id, " ".join(f"{name} 0 0 {width} {height}" for name in names)])


def _class_names(question: Question) -> tuple[str, ...]:
    classes, submission_format = question.classes, question.format
    if question.class_ids is not None:
        absent = [name for name in classes if name not in question.class_ids]
        if absent:
            raise ConfigError(f"submission.class_ids lacks an id of {some(absent)}; add a line `class id` for each")
        names = tuple(question.class_ids[name] for name in classes)
    elif submission_format is SubmissionFormat.ilsvrc:
        names = tuple(str(position + 1) for position in range(len(classes)))
    else:
        names = classes
    if submission_format is SubmissionFormat.ilsvrc:
        wrong = [name for name in names if not (name.isascii() and name.isdigit() and int(name) >= 1)]
        if wrong:
            raise ConfigError(f"submission=ilsvrc: class ids are whole numbers from 1, not {some(wrong)}")
    if submission_format in (SubmissionFormat.tiny_imagenet, SubmissionFormat.kaggle_loc):
        _require_no_space(names, submission_format, "class", "give submission.class_ids, or submission=labels")
    return names


def _lines_of(question: Question) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Returns the id of each line and the index of its row."""
    if question.template is not None:
        return question.template.ids, _match_template(question.template, question.rows)
    if question.format is SubmissionFormat.ilsvrc:
        return question.rows, np.arange(len(question.rows))
    ids = tuple(row_id(question.format, row) for row in question.rows)
    _require_distinct(
        ids, f"submission={question.format}: ids of images", "choose submission=labels, whose ids are whole paths"
    )
    if question.format is SubmissionFormat.tiny_imagenet:
        _require_no_space(ids, question.format, "file name", "rename the file, or choose submission=labels")
    return ids, np.arange(len(ids))


def _match_template(template: Template, rows: Sequence[str]) -> NDArray[np.int64]:
    """Returns the row index of each id; the message names ids that the spelling of most does not match."""
    wanted, spelling = set(template.ids), spelled_as(template.ids, rows)
    known = set(spelling)
    unknown = [image_id for image_id in template.ids if image_id not in known]
    if unknown:
        raise ConfigError(f"submission.template: no image for its ids {some(unknown)}; is it of this test set?")
    _require_distinct(spelling, "submission.template: names of images, without their folders,")
    absent = [name for name in spelling if name not in wanted]
    if absent:
        raise ConfigError(f"submission.template lacks ids of the images {some(absent)}; is it of this test set?")
    index = {name: row for row, name in enumerate(spelling)}
    return np.array([index[image_id] for image_id in template.ids], dtype=np.int64)


def _header_of(question: Question, names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Returns the csv header (empty in .txt), and the class of each column of probabilities."""
    every = tuple(range(len(names)))
    template = question.template
    if not is_csv(question.format):
        if template is not None:
            raise ConfigError(
                f"submission={question.format} takes no submission.template: it has no header and columns; "
                "give submission.template=null"
            )
        return (), every
    if question.format is not SubmissionFormat.probabilities:
        if template is not None and len(template.header) != 2:
            raise ConfigError(
                f"submission={question.format} has two columns, submission.template {len(template.header)}: "
                f"{some(template.header)}; is it meant for submission=probabilities? "
                "Or give submission.template=null"
            )
        usual = ("ImageId", "PredictionString") if question.format is SubmissionFormat.kaggle_loc else ("id", "label")
        return (usual if template is None else template.header), every
    if template is None:
        return ("id", *names), every
    columns = template.header[1:]
    if len(columns) == 1 < len(names):
        raise ConfigError(
            f"submission.template has two columns, {some(template.header)}, and submission=probabilities one for each "
            f"of {len(names)} classes; choose submission=labels, or give submission.template=null"
        )
    if set(columns) != set(names):
        wrong = sorted(set(columns) ^ set(names))
        raise ConfigError(
            f"submission.template: columns and classes differ in {some(wrong)}; give submission.class_ids"
        )
    return template.header, tuple(map(dict(zip(names, every, strict=True)).__getitem__, columns))


def _csv_line(values: Iterable[str]) -> str:
    buffer = io.StringIO()
    # The writer quotes only the characters of its own line end, and a lone "\r" in a name ends a line for readers.
    csv.writer(buffer, lineterminator="\r\n").writerow(values)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def _require_distinct(values: Sequence[str], what: str, change: str = "") -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ConfigError(f"{what} occur twice: {some(repeated)}" + (f"; {change}" if change else ""))


def _require_no_space(values: Sequence[str], submission_format: str, what: str, change: str) -> None:
    spaced = [value for value in values if len(value.split()) != 1]
    if spaced:
        raise ConfigError(f"submission={submission_format}: a {what} with spaces, {some(spaced)}; {change}")
