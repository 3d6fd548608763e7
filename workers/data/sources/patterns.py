"""Which files below a root hold which split: by their names, or by patterns with `*`, `?`, `[…]` and `{000..146}`."""

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

from workers.data.sources.tree import Entry, Tree
from workers.errors import DataError
from workers.settings import DatasetSettings

WORDS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAGIC = re.compile(r"[*?[]")
_MOST_NAMES = 1_000_000


@dataclass(frozen=True)
class SplitFiles:
    """The files of each split, in the order of their paths; `val` and `test` are empty where there are none."""

    train: tuple[Entry, ...]
    val: tuple[Entry, ...]
    test: tuple[Entry, ...]


def split_files(tree: Tree, settings: DatasetSettings, suffix: str) -> SplitFiles:
    """Files that end in `suffix`: those that patterns name, else those whose name, or folder, has the split's word.

    They lie in the root, in `data/`, or below either in a folder of the split.

    Raises:
        DataError: train has none, or a pattern names none.
    """
    found: dict[str, tuple[Entry, ...]] = {}
    usual: dict[str, list[Entry]] | None = None
    for split in WORDS:
        pattern = getattr(settings, split)
        if pattern is not None:
            found[split] = glob(tree, pattern, f"datasets.<name>.{split}")
            continue
        usual = usual or _usual(tree, suffix)
        found[split] = tuple(sorted(usual[split], key=lambda entry: entry.path))
    if not found["train"]:
        raise DataError(
            f"{tree.describe('')}: no train-*{suffix} inside: set datasets.<name>.train to a pattern of its files, as "
            f"in train='shards/*{suffix}'"
        )
    return SplitFiles(**found)


def glob(tree: Tree, pattern: str, key: str) -> tuple[Entry, ...]:
    """The files below the root that a pattern names, in the order of their paths; `key` is the pattern's own.

    Raises:
        DataError: there are none, or one that is spelled out is missing.
    """
    found: dict[str, Entry] = {}
    paths = expand(pattern, key)
    if not paths:
        raise DataError(f"{key}={pattern}: its braces stand for no number: write the smaller one first")
    for path in paths:
        parts = PurePosixPath(below_root(path, key)).parts
        entries = list(_matching(tree, "", parts)) if parts else []
        if not entries:
            raise DataError(f"{tree.describe(path)}: no such file: correct {key}={pattern}")
        found.update((entry.path, entry) for entry in entries)
    return tuple(found[path] for path in sorted(found))


def expand(pattern: str, key: str) -> tuple[str, ...]:
    """What braces stand for: `{000..146}` for numbers of as many digits, `{a,b}` for either."""
    paths = [pattern]
    while any(_BRACES.search(path) for path in paths):
        expanded = (each for path in paths for each in _first_brace(path))
        paths = list(islice(expanded, _MOST_NAMES + 1))
        if len(paths) > _MOST_NAMES:
            raise DataError(f"{key}={pattern}: stands for more than {_MOST_NAMES} files")
    return tuple(paths)


def below_root(path: str, key: str) -> str:
    """A path as it may be given: relative to the root, and not out of it; "" for the root itself."""
    parts = PurePosixPath(path).parts
    if "://" in path or path.startswith(("pipe:", "/", "~")) or ".." in parts:
        raise DataError(f"{key}={path}: only files below the root are read: give a path relative to it")
    return str(PurePosixPath(*parts)) if parts else ""


def _first_brace(path: str) -> Iterator[str]:
    brace = _BRACES.search(path)
    if brace is None:
        yield path
        return
    numbers = _RANGE.fullmatch(brace[1])
    if numbers is None:
        choices = brace[1].split(",")
    else:
        first, last = int(numbers[1]), int(numbers[2])
        # As shells do it: 0 is a number like any other, 00 wants two digits.
        is_padded = any(len(number) > 1 and number.startswith("0") for number in numbers.groups())
        width = max(map(len, numbers.groups())) if is_padded else 0
        choices = [f"{number:0{width}d}" for number in range(first, min(last, first + _MOST_NAMES) + 1)]
    for choice in choices:
        yield path[: brace.start()] + choice + path[brace.end() :]


def _matching(tree: Tree, folder: str, parts: tuple[str, ...]) -> Iterator[Entry]:
    """Files at `parts` below a folder; only folders whose part has a wildcard are listed."""
    part, rest = parts[0], parts[1:]
    if _MAGIC.search(part):
        entries = [entry for entry in tree.entries(folder) if fnmatch.fnmatchcase(entry.name, part)]
    else:
        entry = tree.find(f"{folder}/{part}" if folder else part)
        entries = [] if entry is None else [entry]
    for entry in entries:
        if rest and entry.is_folder:
            yield from _matching(tree, entry.path, rest)
        elif not rest and not entry.is_folder:
            yield entry


def _usual(tree: Tree, suffix: str) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {split: [] for split in WORDS}
    for folder in ("", "data"):
        # The root's own listing tells whether there is such a folder.
        if folder and not any(entry.is_folder and entry.name == folder for entry in tree.entries("")):
            continue
        for entry in tree.entries(folder):
            split = _split_of(entry.name)
            if split is None:
                continue
            if entry.is_folder:
                found[split] += [each for each in tree.entries(entry.path) if _is_one(each, suffix)]
            elif _is_one(entry, suffix):
                found[split].append(entry)
    return found


def _is_one(entry: Entry, suffix: str) -> bool:
    return not entry.is_folder and entry.name.endswith(suffix)


def _split_of(name: str) -> str | None:
    """The split whose word is the first of the words in a name."""
    words = re.split(r"[-_.]", name.lower())
    return next((split for word in words for split, known in WORDS.items() if word in known), None)
