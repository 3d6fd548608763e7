"""Finds the image that a person's file means by an id: one rule for folds, groups and corrected labels."""

from collections.abc import Collection
from pathlib import PurePosixPath

from workers.errors import DataError


def spellings(row: str) -> tuple[str, str, str, str]:
    """Returns the names that a file may use for the image at path `row`: with folders or not, with suffix or not."""
    path = PurePosixPath(row)
    return (row, str(path.with_suffix("")), path.name, path.stem)


def ids_of_rows(rows: Collection[str], ids: Collection[str]) -> dict[str, str]:
    """Returns the id of each of `rows`, paths of training images, that one of `ids` means.

    An id may begin with `train/`. If it is the whole path of an image, it means no other.

    Raises:
        DataError: an id may be several images, or two ids are the same path.
    """
    known, given = set(rows), dict[str, str]()
    for name in ids:
        plain = name.replace("\\", "/")
        plain = plain if plain in known else plain.removeprefix("train/")
        if (first := given.setdefault(plain, name)) != name:
            raise DataError(f"{first}: another line names the same image, {name}; keep one")
    if given.keys() <= known:
        return {row: given[row] for row in rows if row in given}
    found, row_of = dict[str, str](), dict[str, str]()
    for row in rows:
        # The most exact one.
        for name in [each for each in spellings(row) if each in given and (each == row or each not in known)][:1]:
            if other := row_of.get(name):
                raise DataError(f"an id may be several images; write paths below train/ ({name}: {other}, {row})")
            row_of[name], found[row] = row, given[name]
    return found
