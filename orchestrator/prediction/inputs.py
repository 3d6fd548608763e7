"""Finds the images that a person names: files, folders, patterns and lists, here or in an object store; names alone."""

import re
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from workers.data.decoding import SUFFIXES, read_content
from workers.data.sources import read_table, read_text, tree_at, walk
from workers.errors import DataError
from workers.settings import is_url

_LISTS = (".csv", ".tsv", ".txt")
_COLUMNS = ("path", "id")
_PATTERN = re.compile(r"[*?\[]")
# Files that are read from one folder of a store share its driver.
_tree = lru_cache(maxsize=64)(tree_at)


class Images:
    """The names of images, in order; without pixels."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._below = array("L")

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str, row: str) -> None:
        """Adds an image; `row` is its path below the folder, or in the list, that was given."""
        self.names.append(name)
        self._below.append(len(name) - len(row) if name.endswith(row) else 0)

    def rows(self) -> tuple[str, ...]:
        """Returns what a submission would call the images: their paths below what was given."""
        return tuple(name[start:] for name, start in zip(self.names, self._below, strict=True))


def find_images(given: Sequence[str], root: str | None = None) -> Images:
    """Returns the images that `given` mean, in that order; those of a folder in the order of paths.

    Args:
        given: files; folders, for the images in them at any depth; patterns, in which `**` is any number of folders;
            lists (.csv, .tsv with a header, .txt with a path a line); and URLs of object stores of all four.
        root: what paths in lists are relative to; their list's folder, if None.

    Raises:
        DataError: there is no such file, no image in a folder or of a pattern, a list is malformed, or a store does not
            answer.
    """
    found = Images()
    for word in given:
        before = len(found)
        for name, row in _found(word, root):
            found.add(name, row)
        if len(found) == before:
            raise DataError(f"{word}: no image there ({', '.join(SUFFIXES)})")
    return found


def read_image(name: str, folder: Path) -> bytes:
    """Reads an image; a relative path is below `folder`. Raises BadImage, or SourceLost if a store does not answer."""
    if not is_url(name):
        return read_content(folder / name)
    place, file = _parted(name)
    return _tree(place).read(file)


def _found(word: str, root: str | None) -> Iterator[tuple[str, str]]:
    entry = tree_at(word).find("")
    if entry is None and _PATTERN.search(word):
        yield from _matching(word)
    elif entry is None:
        raise DataError(f"{word}: no such image file or folder")
    elif entry.is_folder:
        yield from _inside(word, "**")
    elif PurePosixPath(word).suffix.lower() in _LISTS:
        yield from _listed(word, root)
    else:
        yield (word if is_url(word) else str(Path(word)),) * 2


def _matching(pattern: str) -> Iterator[tuple[str, str]]:
    parts = pattern.split("/")
    first = next(place for place, part in enumerate(parts) if _PATTERN.search(part))
    folder = "/".join(parts[:first]) or ("/" if first else ".")
    yield from _inside(folder, "/".join(parts[first:]))


def _inside(folder: str, pattern: str) -> Iterator[tuple[str, str]]:
    """Yields the images below a folder whose path there matches; where the pattern gives an ending, that is theirs."""
    # Part of what reads object stores; imported here, since few need it.
    from fsspec.utils import glob_translate

    tree, matches = tree_at(folder), re.compile(glob_translate(pattern)).match
    any_ending = bool(PurePosixPath(pattern).suffix)
    for entry in walk(tree, ""):
        if matches(entry.path) and (any_ending or PurePosixPath(entry.name).suffix.lower() in SUFFIXES):
            yield tree.describe(entry.path), entry.path


def _listed(word: str, root: str | None) -> Iterator[tuple[str, str]]:
    """Yields the images of a list; the first is looked for, and a later one that is not there cannot be read."""
    folder, file = _parted(word)
    tree, base = tree_at(folder), folder if root is None else root
    if file.lower().endswith(".txt"):
        paths: Sequence[str] = [line.strip() for line in read_text(tree, file).splitlines()]
    else:
        table = read_table(tree, file)
        lower = [name.lower() for name in table.header]
        place = next((lower.index(name) for name in _COLUMNS if name in lower), 0)
        if PurePosixPath(lower[place]).suffix in SUFFIXES:
            raise DataError(f"{table.at}: line 1 is an image, not a header; write a line `path` above it")
        paths = table.column(place)
    for number, path in enumerate(filter(None, paths)):
        if is_url(path) or not is_url(base):
            name = path if is_url(path) else str(Path(base, path))
        else:
            name = f"{base.rstrip('/')}/{path}"
        if not number and tree_at(name).find("") is None:
            raise DataError(f"{word}: lists {path}, and there is no {name}; give --root, the folder of such paths")
        yield name, path


def _parted(name: str) -> tuple[str, str]:
    """Returns the folder of a file, and its name there."""
    if not is_url(name):
        return str(Path(name).parent), Path(name).name
    folder, _, file = name.rpartition("/")
    return folder, file
