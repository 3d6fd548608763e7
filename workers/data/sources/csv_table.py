"""Parses csv files, and finds their columns of ids and labels. No column is chosen if another one fits as well."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.data.sources.tree import LocalTree, Tree, read_text
from workers.errors import DataError, some
from workers.settings import DatasetSettings

_IDS = ("id", "image_id", "imageid", "image", "image_name", "img", "filename", "file_name", "file", "path", "name")
_LABELS = ("label", "labels", "class", "target", "category", "species", "breed")
_FILE_NAME = re.compile(r"\.[A-Za-z]\w{1,3}$")
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True}
# Returns the path of the image with an id, None if there is none or several.
Find = Callable[[str], str | None]


@dataclass(frozen=True)
class Table:
    """A csv file below the root: its full path for messages, the header, and each line's number and cells."""

    path: str
    at: str
    header: tuple[str, ...]
    lines: tuple[tuple[int, tuple[str, ...]], ...]

    def column(self, place: int) -> tuple[str, ...]:
        return tuple(cells[place] for _, cells in self.lines)


def read_table(tree: Tree, path: str) -> Table:
    """Parses a file with commas, semicolons or tabs between cells; raises DataError if it is malformed."""
    text, at = read_text(tree, path), tree.describe(path)
    first = text.partition("\n")[0]
    delimiter = next((each for each in ",;\t" if each in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        lines = [(reader.line_num, tuple(cell.strip() for cell in cells)) for cells in reader if any(cells)]
    except csv.Error as error:
        raise DataError(f"{at}: line {reader.line_num}: {error}") from error
    if lines and lines[0][1][0].lower() == "sep=":
        # Tells spreadsheets how the file is separated.
        del lines[0]
    if len(lines) < 2:
        raise DataError(f"{at}: no line below the header: write id,label and one line for each image")
    (_, header), *rest = lines
    for number, line in rest:
        if len(line) != len(header):
            raise DataError(f"{at}: line {number} has {len(line)} cells, its header {len(header)}: fix the line")
    return Table(path, at, header, tuple(rest))


def id_place(settings: DatasetSettings, table: Table, find: Find) -> int:
    """Returns the place of the column of ids: of several that may be, the one whose cells name images.

    Raises:
        DataError: the column that `settings` name is missing, two columns name different images, or the header is
            data.
    """
    if settings.id_column is not None:
        if settings.id_column not in table.header:
            raise no_column(table, "id_column", settings.id_column)
        return table.header.index(settings.id_column)
    _require_header(settings, table, find)
    labels = {settings.label_column, *(table.header[place] for place in _usual_places(table, _LABELS))}
    usual = [place for place in _usual_places(table, _IDS) if table.header[place] != settings.label_column]
    first = table.lines[0][1]
    others = [place for place, name in enumerate(table.header) if place not in usual and name not in labels]
    # A column of file names is preferred to one of ids, which may be mere numbers.
    files = [place for place in usual if _FILE_NAME.search(first[place])]
    unusual = [place for place in others if _FILE_NAME.search(first[place])]
    named = [*files, *(place for place in usual if place not in files), *unusual]
    candidates = named or others[:2] or [0]
    if len(candidates) == 1:
        return candidates[0]
    images = {place: tuple(map(find, table.column(place))) for place in candidates}
    num_found = {place: len(set(found) - {None}) for place, found in images.items()}
    pool = [place for place in files if num_found[place]] or [place for place in candidates if num_found[place]]
    if not pool:
        return candidates[0]
    best = max(pool, key=lambda place: num_found[place])
    for rival in pool:
        pairs = zip(table.lines, images[best], images[rival], strict=True)
        differing = next((line for line, mine, its in pairs if mine and its and mine != its), None)
        if differing is not None and 2 * num_found[rival] > num_found[best]:
            (one, other), (number, cells) = sorted((best, rival)), differing
            raise DataError(
                f"{table.at}: both {table.header[one]} and {table.header[other]} name images, not the same ones (line "
                f"{number}: {cells[one]}, {cells[other]}): set datasets.<name>.id_column to the right one"
            )
    return best


def _require_header(settings: DatasetSettings, table: Table, find: Find) -> None:
    """Raises DataError if the first line is data: it names an image, or has the label of a line below."""
    if settings.label_column in table.header or _usual_places(table, (*_IDS, *_LABELS)):
        return
    header = table.header
    # The other cell looks like those below it: `photo,y` is a header of lines like `000.png,y`.
    first = table.lines[0][1]
    is_label = len(header) == 2 and any(
        header[place] in table.column(place)
        and bool(_FILE_NAME.search(header[1 - place])) == bool(_FILE_NAME.search(first[1 - place]))
        for place in (0, 1)
    )
    if is_label or any(name and find(name) for name in header):
        raise DataError(
            f"{table.at}: line 1 ({some(header)}) looks like an image, not like a header: write a line id,label "
            "above it, or set datasets.<name>.id_column if it is the header"
        )


def label_name(settings: DatasetSettings, train: Table, id_at: int) -> str | None:
    """Returns the name of train's column of labels, None if there is none.

    Raises:
        DataError: two columns may be, and divide the images differently.
    """
    if settings.label_column is not None:
        return settings.label_column
    usual = [place for place in _usual_places(train, _LABELS) if place != id_at]
    varied = [place for place in usual if len(set(train.column(place))) > 1] or usual
    for other in varied[1:]:
        if not divide_alike(train.column(varied[0]), train.column(other)):
            names = f"{train.header[varied[0]]} or {train.header[other]}"
            raise DataError(f"{train.at}: labels may be {names}: set datasets.<name>.label_column to one of them")
    if varied:
        return train.header[varied[0]]
    return train.header[1 - id_at] if len(train.header) == 2 else None


def divide_alike(mine: Sequence[str], its: Sequence[str]) -> bool:
    """Returns whether two columns of labels mean the same classes, whatever they call them."""
    return len(set(mine)) == len(set(its)) == len(set(zip(mine, its, strict=True)))


def labels_of(table: Table, train: Table, name: str | None, id_name: str) -> tuple[str, ...] | None:
    """Returns the label of each line, "" for none, from a column `name` or train's columns of classes; None without."""
    if name is None:
        return _marked_classes(table, train, id_name)
    if table.header.count(name) > 1:
        raise DataError(f"{table.at}: two columns are called {name}: rename one")
    return table.column(table.header.index(name)) if name in table.header else None


def _marked_classes(table: Table, train: Table, id_name: str) -> tuple[str, ...] | None:
    """Returns the class of each line if train has a column of 0 and 1 for each class; otherwise None."""
    classes = [name for name in train.header if name != id_name]
    if not set(classes) <= set(table.header):
        return None
    places = [table.header.index(name) for name in classes]
    if not places or not all(cells[place] in _FLAGS for _, cells in table.lines for place in places):
        return None
    labels: list[str] = []
    for number, cells in table.lines:
        marked = [table.header[place] for place in places if _FLAGS[cells[place]]]
        if len(marked) > 1:
            raise DataError(f"{table.at}: line {number}: {len(marked)} classes are marked with 1: mark just one")
        labels.append(marked[0] if marked else "")
    return tuple(labels)


def no_column(table: Table, key: str, asked: str | None) -> DataError:
    """Returns the error of a column that is missing; `key` is the setting that names it."""
    missing = "no known column of labels" if asked is None else f"no column {asked}"
    return DataError(f"{table.at}: {missing} (columns: {some(table.header, 10)}): set datasets.<name>.{key}")


def _usual_places(table: Table, known: Iterable[str]) -> list[int]:
    lower = [name.lower() for name in table.header]
    return [lower.index(name) for name in known if name in lower]


def read_values(path: Path) -> dict[str, str]:
    """Returns the second column of a csv file by the first; raises DataError if it has others, or an id twice."""
    table = read_table(LocalTree(path.absolute().parent), path.name)
    if len(table.header) != 2:
        raise DataError(f"{table.at}: has {len(table.header)} columns; give two, as in id,group")
    return values_by_id(table, table.column(0), table.column(1))


def values_by_id(table: Table, ids: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    """Returns `values` by `ids`, of each line of `table`; raises DataError if one is empty or an id has two values."""
    found: dict[str, str] = {}
    for (number, _), name, value in zip(table.lines, ids, values, strict=True):
        if not value or found.setdefault(name, value) != value:
            raise DataError(f"{table.at}: line {number}: {name} has no value, or another one above; fix the line")
    return found
