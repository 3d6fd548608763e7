"""What a csv file says of images: an id and a label a line, under whatever headers competitions give them."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from workers.data.tree import Tree, read_text
from workers.errors import DataError
from workers.settings.training import DatasetSettings

_IDS = ("id", "image_id", "imageid", "image", "image_name", "img", "filename", "file_name", "file", "path", "name")
_LABELS = ("label", "labels", "class", "target", "category", "species", "breed")
# A sample submission may have a column of labels; they only show how to write them.
_SAMPLE = "sample"
_FILE_NAME = re.compile(r"\.[A-Za-z]\w{1,3}$")
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True}
_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its number in the file, the image's id, and its label, "" for none."""

    number: int
    id: str
    label: str


@dataclass(frozen=True)
class Table:
    """A csv file below the root: `at` for messages, the header, and the cells of each line with its number."""

    path: str
    at: str
    header: tuple[str, ...]
    lines: tuple[tuple[int, tuple[str, ...]], ...]


def read_table(tree: Tree, path: str) -> Table:
    """Parses a file whose cells are divided by commas, semicolons or tabs; raises DataError where it is none."""
    text, at = read_text(tree, path), tree.describe(path)
    first = text.partition("\n")[0]
    delimiter = next((each for each in ",;\t" if each in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        lines = [(reader.line_num, tuple(cell.strip() for cell in cells)) for cells in reader if any(cells)]
    except csv.Error as error:
        raise DataError(f"{at}: line {reader.line_num}: {error}") from error
    if len(lines) < 2:
        raise DataError(f"{at}: no line below a header: write id,label and a line for each image")
    (_, header), *rest = lines
    for number, line in rest:
        if len(line) != len(header):
            raise DataError(f"{at}: line {number} has {len(line)} cells, its header {len(header)}: mend the line")
    return Table(path, at, header, tuple(rest))


def labelled_lines(settings: DatasetSettings, table: Table, train: Table) -> Iterator[Line]:
    """The lines of train or val; `train` says which columns are classes where each has one.

    Raises:
        DataError: a column is not there or cannot be told, or an id or a label is empty.
    """
    id_place = _id_place(settings, table)
    labels = _labels(settings, table, train, id_place)
    if labels is None:
        raise _no_column(table, "label_column", settings.label_column)
    return _lines(table, id_place, labels)


def lines_of_test(settings: DatasetSettings, table: Table, train: Table) -> Iterator[Line]:
    """The lines of test, without labels where it has none; raises DataError as `labelled_lines`."""
    id_place = _id_place(settings, table)
    is_sample = PurePosixPath(table.path).name.lower().startswith(_SAMPLE)
    labels = None if is_sample else _labels(settings, table, train, id_place)
    return _lines(table, id_place, labels if labels is not None and any(labels) else None)


def _lines(table: Table, id_place: int, labels: Sequence[str] | None) -> Iterator[Line]:
    for index, (number, cells) in enumerate(table.lines):
        if not cells[id_place]:
            raise DataError(f"{table.at}: line {number}: no id: write the image's name, or remove the line")
        if labels is not None and not labels[index]:
            raise DataError(f"{table.at}: line {number}: no label of {cells[id_place]}: write it, or remove the line")
        yield Line(number, cells[id_place], "" if labels is None else labels[index])


def _id_place(settings: DatasetSettings, table: Table) -> int:
    if settings.id_column is None:
        lower = [name.lower() for name in table.header]
        usual = [lower.index(name) for name in _IDS if name in lower]
        # Beside the names of files an id is but a number, though some images may be called so.
        files = (place for place in usual if _FILE_NAME.search(table.lines[0][1][place]))
        return next(files, usual[0] if usual else 0)
    if settings.id_column not in table.header:
        raise _no_column(table, "id_column", settings.id_column)
    return table.header.index(settings.id_column)


def _labels(settings: DatasetSettings, table: Table, train: Table, id_place: int) -> list[str] | None:
    """The label of each line, from the column that holds those of train; None where there is no such column."""
    name = settings.label_column
    if name is None and (place := _label_place(settings, train)) is not None:
        name = train.header[place]
    if name is None:
        return _marked_classes(table, train, table.header[id_place])
    if name not in table.header:
        return None
    place = table.header.index(name)
    return [cells[place] for _, cells in table.lines]


def _label_place(settings: DatasetSettings, train: Table) -> int | None:
    place = _named(train, _LABELS)
    if place is None and len(train.header) == 2:
        return 1 - _id_place(settings, train)
    return place


def _marked_classes(table: Table, train: Table, id_name: str) -> list[str] | None:
    """The class of each line where train has a column of 0 and 1 for each; None where it has not."""
    classes = [name for name in train.header if name != id_name]
    if not set(classes) <= set(table.header):
        return None
    places = [table.header.index(name) for name in classes]
    if not places or not all(cells[place] in _FLAGS for _, cells in table.lines for place in places):
        return None
    return [_marked(table, number, cells, places) for number, cells in table.lines]


def _marked(table: Table, number: int, cells: Sequence[str], places: Iterable[int]) -> str:
    marked = [table.header[place] for place in places if _FLAGS[cells[place]]]
    if len(marked) != 1:
        raise DataError(f"{table.at}: line {number}: {len(marked)} classes are marked with 1: an image has just one")
    return marked[0]


def _named(table: Table, known: Iterable[str]) -> int | None:
    lower = [name.lower() for name in table.header]
    return next((lower.index(name) for name in known if name in lower), None)


def _no_column(table: Table, key: str, asked: str | None) -> DataError:
    missing = "which column holds labels cannot be told" if asked is None else f"no column {asked}"
    more = ", …" if len(table.header) > _MOST_NAMED else ""
    columns = ", ".join(table.header[:_MOST_NAMED]) + more
    return DataError(f"{table.at}: {missing} (columns: {columns}): set datasets.<name>.{key}")
