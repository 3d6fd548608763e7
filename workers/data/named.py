"""Finds the images that a person names: files, folders, patterns and lists, here or in an object store."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from workers.data.decoding import SUFFIXES, read_content
from workers.data.sources import is_named_as_image, may_be_image, read_table, read_text, tree_at, walk
from workers.errors import DataError
from workers.settings import is_url

_PATTERN = re.compile(r"[*?\[]")
# Images of one folder of a store share its driver.
_tree = lru_cache(maxsize=64)(tree_at)


def find_images(given: Sequence[str]) -> list[str]:
    """Returns the names of the images that `given` mean, in that order; those of a folder in the order of paths.

    `given` are files; folders, for the images in them; patterns, in which `**` is any number of folders; lists of paths
    below the list's folder (.txt, or .csv: a column path or id, or the first); and URLs of these. Raises DataError.
    """
    found: list[str] = []
    for word in given:
        before = len(found)
        found += _found(word)
        if len(found) == before:
            raise DataError(f"{word}: no image there ({', '.join(SUFFIXES)})")
    return found


def read_image(name: str, folder: Path) -> bytes:
    """Reads an image; a relative path is below `folder`. Raises BadImage, or SourceLost if a store does not answer."""
    place, _, file = name.rpartition("/")
    return _tree(place).read(file) if is_url(name) else read_content(folder / name)


def _found(word: str) -> Iterator[str]:
    entry, pattern = tree_at(word).find(""), "**"
    if entry is None:
        parts = word.split("/")
        first = next((place for place, part in enumerate(parts) if _PATTERN.search(part)), None)
        if first is None:
            raise DataError(f"{word}: no such image file or folder")
        word, pattern = "/".join(parts[:first]) or ("/" if first else "."), "/".join(parts[first:])
    elif not entry.is_folder:
        yield from _listed(word) if word.lower().endswith((".csv", ".txt")) else [tree_at(word).describe("")]
        return
    # Imported here, since few need it.
    from fsspec.utils import glob_translate

    tree, matches = tree_at(word), re.compile(glob_translate(pattern)).match
    for entry in walk(tree, ""):
        # Some have no extension, as in datasets.
        if matches(entry.path) and (is_named_as_image(entry) or ("." not in entry.name and may_be_image(entry))):
            yield tree.describe(entry.path)


def _listed(word: str) -> Iterator[str]:
    """Yields the images of a list. The first must be there; another that is not there cannot be read."""
    folder, _, file = word.rpartition("/") if is_url(word) else (str(Path(word).parent), "", Path(word).name)
    tree = tree_at(folder)
    if file.lower().endswith(".txt"):
        paths = tuple(line.strip() for line in read_text(tree, file).splitlines())
    else:
        table = read_table(tree, file)
        lower = [name.lower() for name in table.header]
        place = next((lower.index(name) for name in ("path", "id") if name in lower), 0)
        first = None if lower[place] in ("path", "id") else tree.find(table.header[place])
        if PurePosixPath(lower[place]).suffix in SUFFIXES or (first and not first.is_folder):
            raise DataError(f"{table.at}: line 1 is an image, not a header; write a line `path` above it")
        for number in [number for number, cells in table.lines if not cells[place]][:1]:
            raise DataError(f"{table.at}: line {number} has no path; write it, or remove the line")
        paths = table.column(place)
    names = [path if is_url(path) else tree.describe(path) for path in paths if path]
    if names and tree_at(names[0]).find("") is None:
        raise DataError(f"{word}: there is no {names[0]}; write paths below the list's folder, or whole ones")
    yield from names
