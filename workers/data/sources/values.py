"""Reads what a csv file says of each image, such as its group or its fold, and finds the images by its ids."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from workers.data.sources.csv_table import Table, read_table
from workers.data.sources.tree import LocalTree
from workers.errors import DataError, some


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


def values_of(rows: Sequence[str], values: Mapping[str, str], at: str) -> list[str]:
    """Returns the value of each of `rows`, paths of training images.

    An id is such a path, the same without its extension, its file name, or that one's stem. `at` is for messages.

    Raises:
        DataError: an image has no value, or an id fits two images.
    """
    plain = {name.replace("\\", "/").removeprefix("train/"): value for name, value in values.items()}
    names = {}
    for row in rows:
        path = PurePosixPath(row)
        forms = (row, str(path.with_suffix("")), path.name, path.stem)
        names[row] = next((form for form in forms if form in plain), "")
    if missing := [row for row, name in names.items() if not name]:
        raise DataError(f"{at}: no line for {len(missing)} training images: {some(missing)}; add them")
    if len(set(names.values())) < len(names):
        raise DataError(f"{at}: an id may be several images; write paths below train/")
    return [plain[names[row]] for row in rows]
