"""Finds the files of each split below a root, by their names or by patterns with `*`, `?`, `[…]` and `{000..146}`."""

import fnmatch
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import PurePosixPath

from workers.data.sources.tree import Entry, Tree
from workers.errors import DataError
from workers.settings import DatasetSettings

# The words for each split in the names of folders and files, in any letter case. `dev` is none of them: to some it is
# val, and here it is a part of train.
WORDS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAGIC = re.compile(r"[*?[]")
# As in train-00000-of-00004.parquet and train-000123.tar.
_PART = re.compile(r"(.*?)(\d+)(?:-of-(\d+))?\.[a-z]+")
_MOST_NAMES = 1_000_000


def split_files(tree: Tree, settings: DatasetSettings, suffix: str) -> dict[str, tuple[Entry, ...]]:
    """Returns the files of train, and of val and test if there are any, in the order of their paths.

    They are those that patterns name, else those that end in `suffix` and whose name, or folder, has the split's word,
    in the root, in `data/`, or in a folder of either. Others are refused if train's are found by their names.

    Raises:
        DataError: train has no files, a pattern matches none, a part of a numbered row of files is missing, or a file's
            name means no split.
    """
    found: dict[str, tuple[Entry, ...]] = {}
    usual: dict[str, list[Entry]] | None = None
    for split in WORDS:
        pattern = getattr(settings, split)
        if pattern is not None:
            found[split] = glob(tree, pattern, f"datasets.<name>.{split}")
            continue
        usual = usual or _usual(tree, suffix, is_all=settings.train is None)
        # For example val-*.tar and validation-*.tar: probably the same images twice.
        named = [usual[word] for word in WORDS[split] if usual[word]]
        change = f"set datasets.<name>.{split} to a pattern of its files"
        require_one(tree, split, [files[0] for files in named], change)
        found[split] = tuple(sorted(chain.from_iterable(named), key=lambda entry: entry.path))
        _require_parts(tree, found[split], change)
    if not found["train"]:
        raise DataError(
            f"{tree.describe('')}: no train-*{suffix} inside: set datasets.<name>.train to a pattern of its files, "
            f"such as 'shards/*{suffix}'"
        )
    return {split: files for split, files in found.items() if files}


def split_folders(tree: Tree, parent: str = "") -> dict[str, str]:
    """Returns the paths of the folders in `parent` that are named for a split, by split.

    Raises:
        DataError: two folders that are not empty mean the same split.
    """
    found: dict[str, str] = {}
    for split in WORDS:
        named = [each for each in tree.entries(parent) if each.is_folder and _SPLIT_OF.get(each.name.lower()) == split]
        if len(named) > 1:
            named = [each for each in named if tree.entries(each.path)] or named[:1]
        require_one(tree, split, named, "rename or move one of them")
        if named:
            found[split] = named[0].path
    return found


def require_one(tree: Tree, split: str, named: Sequence[Entry], change: str) -> None:
    """Raises DataError if several files or folders are named for the same split."""
    if len(named) > 1:
        first, second = (tree.describe(each.path) for each in named[:2])
        raise DataError(f"{first} and {second} both mean {split}: {change}")


def glob(tree: Tree, pattern: str, key: str) -> tuple[Entry, ...]:
    """Returns the files below the root that a pattern names, in the order of their paths; `key` is the pattern's key.

    Raises:
        DataError: there are none, or one of the names that braces give is missing.
    """
    found: dict[str, Entry] = {}
    paths = expand(pattern, key)
    if not paths:
        raise DataError(f"{key}={pattern}: the range in braces is empty: write the smaller number first")
    for path in paths:
        parts = PurePosixPath(below_root(path, key)).parts
        entries = list(_matching(tree, "", parts)) if parts else []
        if not entries:
            raise DataError(f"{tree.describe(path)}: no such file: correct {key}={pattern}")
        found.update((entry.path, entry) for entry in entries)
    return tuple(found[path] for path in sorted(found))


def expand(pattern: str, key: str) -> tuple[str, ...]:
    """Expands braces: `{000..146}` to numbers of three digits, `{a,b}` to either."""
    paths = [pattern]
    while any(_BRACES.search(path) for path in paths):
        expanded = (each for path in paths for each in _first_brace(path))
        paths = list(islice(expanded, _MOST_NAMES + 1))
        if len(paths) > _MOST_NAMES:
            raise DataError(f"{key}={pattern}: expands to more than {_MOST_NAMES} files: give a narrower pattern")
    return tuple(paths)


def below_root(path: str, key: str) -> str:
    """Returns a path relative to the root, "" for the root itself; raises DataError if it leads out of the root."""
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
        # As in shells: 0 alone is not padded, 00 asks for two digits.
        is_padded = any(len(number) > 1 and number.startswith("0") for number in numbers.groups())
        width = max(map(len, numbers.groups())) if is_padded else 0
        choices = [f"{number:0{width}d}" for number in range(first, min(last, first + _MOST_NAMES) + 1)]
    for choice in choices:
        yield path[: brace.start()] + choice + path[brace.end() :]


def _matching(tree: Tree, folder: str, parts: tuple[str, ...]) -> Iterator[Entry]:
    """Yields the files at `parts` below a folder; lists a folder only for a wildcard."""
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


def _usual(tree: Tree, suffix: str, *, is_all: bool) -> dict[str, list[Entry]]:
    """Returns the files by the word for a split in their names, or in those of their folders.

    If `is_all`, one without such a word raises DataError.
    """
    found: dict[str, list[Entry]] = {word: [] for word in _SPLIT_OF}
    for folder in ("", "data"):
        # Not listed unless the root has such a folder.
        if folder and not any(entry.is_folder and entry.name == folder for entry in tree.entries("")):
            continue
        for entry in tree.entries(folder):
            word = split_word(entry.name)
            if word is None and is_all and _is_one(entry, suffix):
                raise DataError(
                    f"{tree.describe(entry.path)}: its name means no split: move it, rename it to train-*, val-* or "
                    "test-*, or set datasets.<name>.train, val and test to patterns of their files"
                )
            if word is not None:
                inside = tree.entries(entry.path) if entry.is_folder else (entry,)
                found[word] += [each for each in inside if _is_one(each, suffix)]
    return found


def _require_parts(tree: Tree, entries: Sequence[Entry], change: str) -> None:
    """Raises DataError if numbered files lack one, as after a download that was cut off."""
    numbers: dict[tuple[str, str], set[int]] = {}
    for entry in entries:
        if (part := _PART.fullmatch(entry.path)) is not None:
            numbers.setdefault((part[1], part[3] or ""), set()).add(int(part[2]))
    for (start, total), present in numbers.items():
        # Of N parts the first is 0 or 1.
        first = min(1, *present) if total else min(present)
        last = first + int(total) - 1 if total else max(present)
        missing = sorted({*range(first, last + 1)} - present) if last - first < _MOST_NAMES else []
        if missing:
            of = f" of {total}" if total else ""
            raise DataError(f"{tree.describe(start)}…: part {missing[0]}{of} is missing: fetch it, or {change}")


def _is_one(entry: Entry, suffix: str) -> bool:
    # Compressed ones are told by their reader, not passed over.
    return not entry.is_folder and entry.name.lower().endswith((suffix, f"{suffix}.gz"))


def split_word(name: str) -> str | None:
    """Returns the first part of a name that is a word for a split, in lower case."""
    return next((word for word in re.split(r"[-_.]", name.lower()) if word in _SPLIT_OF), None)
