"""Turns the images that a source found into a listing: selects classes, and makes the checks common to all sources."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from workers.data.sources.files import FileListing, ImageFile, PlainFiles
from workers.data.sources.listing import LeftOut, or_skip
from workers.data.sources.tree import require_one_line
from workers.errors import DataError
from workers.settings import DatasetSettings, OnBad
from workers.storage import expanded

# The class of unlabelled images.
NO_CLASS = ""
ByClass = Mapping[str, Sequence[ImageFile]]


@dataclass(frozen=True)
class Found:
    """All images of a source, by class; `NO_CLASS` has the unlabelled ones of test.

    Attributes:
        order: all class names; a label is an index into those that are kept.
        val: None if the source has none.
        train_at, val_at, test_at: the place of each split, for messages.
        left_out: images that are in no split, and why.
    """

    order: tuple[str, ...]
    train: ByClass
    val: ByClass | None
    test: ByClass
    train_at: str
    val_at: str
    test_at: str
    left_out: tuple[LeftOut, ...] = ()


def found_at(
    place: str, order: tuple[str, ...], splits: Mapping[str, ByClass], left_out: tuple[LeftOut, ...] = ()
) -> Found:
    """Returns the images of the `splits` that a source has; `place` is the source's root, for messages."""
    train_at, val_at, test_at = (f"{place}: {split}" for split in ("train", "val", "test"))
    return Found(order, splits["train"], splits.get("val"), splits.get("test", {}), train_at, val_at, test_at, left_out)


def file_listing(settings: DatasetSettings, contents: PlainFiles, found: Found) -> FileListing:
    """Returns the listing of the images that a source found, of the classes that `settings` keep.

    Raises:
        DataError: a listed class is absent or has no image, val or test have a class that train lacks, a split is
            empty, or two images of a split have the same name.
    """
    for name in found.order:
        require_one_line(name, found.train_at)
    found = _in_one_form(found)
    known = set(found.order)
    wanted = kept_classes(settings, known, found.train_at)
    for name in found.order:
        if name in wanted and not found.train.get(name):
            raise DataError(
                f"{found.train_at}: no image of class {name}: add some, or name the classes to keep in a file and set "
                "datasets.<name>.classes"
            )
    _require_known(found.val or {}, found.train, found.val_at, found.train_at)
    _require_known(found.test, found.train, found.test_at, found.train_at)
    for split in (found.train, found.val or {}, found.test):
        _require_distinct(split)
    val = None if found.val is None else _keep(found.val, wanted)
    if val == ():
        raise DataError(f"{found.val_at}: no image of the {len(wanted)} classes: add images, or remove it")
    others = known - wanted
    return FileListing(
        contents=contents,
        classes=tuple(name for name in found.order if name in wanted),
        train=_keep(found.train, wanted),
        val=val,
        test=_keep(found.test, wanted | {NO_CLASS}),
        other_held_out=_keep(found.val or {}, others) + _keep(found.test, others),
        labelled_test=bool(found.test) and NO_CLASS not in found.test,
        val_fraction=settings.val_fraction,
        dev_fraction=settings.dev_fraction,
        left_out=found.left_out,
    )


# Written by pandas, numpy, spreadsheets and databases where there is no value.
_MISSING = {"", "nan", "null", "<na>", "#n/a"}
# Among names these may be classes ("no defect", "North America"), among numbers they are none.
_MISSING_NUMBERS = {"none", "na", "n/a", "-", "?"}
# Also 1.0, as pandas writes whole numbers if one of their column is missing.
_NUMBER = re.compile(r"(-?\d+)(\.0*)?")
_NEGATIVE = "-1"


def _is_missing(label: str) -> bool:
    """Returns whether a written label stands for none."""
    return label.lower() in _MISSING


@dataclass(frozen=True)
class Naming:
    """The mapping from written labels to class names.

    Attributes:
        names: of classes 0, 1, …; None if labels are names themselves.
        numbered: labels are numbers, and indices into `names` if there are any.
        none_is_negative: -1 stands for no label, as in published test sets.
    """

    names: tuple[str, ...] | None
    numbered: bool
    none_is_negative: bool = True

    def clean(self, label: str) -> str:
        """Returns a label without the form that its file gives it: numbers as integers, "" for a missing one."""
        if _is_missing(label) or (self.numbered and label.lower() in _MISSING_NUMBERS):
            return ""
        number = _NUMBER.fullmatch(label) if self.numbered else None
        label = label if number is None else number[1]
        return "" if label == _NEGATIVE and self.none_is_negative else label

    def name_of(self, label: str, where: str) -> str:
        """Returns the class of a clean label; raises DataError with `where` if there is none."""
        if self.names is None:
            return label
        if self.numbered and label.isdecimal() and int(label) < len(self.names):
            return self.names[int(label)]
        if not self.numbered and label in self.names:
            return label
        known = f"{len(self.names)} classes" + (f", 0…{len(self.names) - 1}" if self.numbered else " by name")
        raise DataError(f"{where}: label {label} is none of the {known}: fix it")

    def order(self, present: Iterable[str]) -> tuple[str, ...]:
        """Returns the classes in the order of their indices: as named, else numbers by value, else by code point."""
        if self.names is not None:
            return self.names
        return tuple(sorted(present, key=(lambda name: (int(name), name)) if self.numbered else None))


class SplitLabels:
    """Gives the class of each image of a split from its label as written; `left_out` are images without one."""

    def __init__(
        self, settings: DatasetSettings, split: str, names: Naming, written: Iterable[str], unit: str, hint: str = ""
    ) -> None:
        """Takes all labels of the split; `unit` is what holds one, and `hint` says where a label may be."""
        self.left_out: list[LeftOut] = []
        self._split, self._names, self._unit, self._hint = split, names, unit, hint
        self._may_lack = split != "test" and settings.on_bad is OnBad.skip
        self._is_labelled = split != "test" or any(map(names.clean, written))
        self._classes: dict[str, str] = {}

    def class_of(self, written: str, where: str, path: str) -> str | None:
        """Returns the class, NO_CLASS in a test without labels, None if the image is left out; raises DataError."""
        label = self._names.clean(written)
        if not label and not self._is_labelled:
            return NO_CLASS
        if not label and self._may_lack:
            self.left_out.append(LeftOut(self._split, path, "no label"))
            return None
        if not label:
            told = f" ({written} stands for none)" if written else self._hint
            raise DataError(f"{where} has no label{told}: write it, or remove the {self._unit}{or_skip(self._split)}")
        if label not in self._classes:
            require_one_line(label, where)
            self._classes[label] = self._names.name_of(label, where)
        return self._classes[label]


def naming(train_labels: Iterable[str], names: tuple[str, ...] | None, where: str) -> Naming:
    """Returns the naming of a source with these labels in train; `names` are those of its numbers, if known.

    Raises:
        DataError: a single label is a name among numbers; `where` is for the message.
    """
    counts = Counter({label: count for label, count in Counter(train_labels).items() if not _is_missing(label)})
    numbers = {label: number[1] for label in counts if (number := _NUMBER.fullmatch(label))}
    num_numbers = sum(counts[label] for label in numbers)
    is_mostly_numbers = 2 * num_numbers > counts.total()
    if names is not None:
        return Naming(names, is_mostly_numbers)
    others = [label for label in counts if label not in numbers and label.lower() not in _MISSING_NUMBERS]
    once = next((label for label in others if counts[label] == 1), None)
    if once is not None and is_mostly_numbers:
        raise DataError(f"{where}: one image has the label {once}, a name among numbers: correct it, or leave it empty")
    # -1 and 1 are the two classes of some authors.
    return Naming(None, is_mostly_numbers and not others, set(numbers.values()) != {_NEGATIVE, "1"})


def read_class_names(settings: DatasetSettings) -> tuple[str, ...] | None:
    """Reads the names of classes 0, 1, … from the file that `settings` name; None if they name none."""
    if settings.class_names is None:
        return None
    path = expanded(settings.class_names)
    names = tuple(line.strip() for line in _text(path, "class_names").rstrip().split("\n"))
    require_names(names, str(path))
    return names


def require_names(names: Sequence[str], where: str) -> None:
    """Raises DataError if a class name is empty or occurs twice."""
    if not all(names):
        raise DataError(f"{where}: the name of class {names.index('')} is empty: write one name per line")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise DataError(f"{where}: {count} classes are named {name}: rename them, for example to {name} 1 and {name} 2")


def grouped(files: Iterable[ImageFile]) -> dict[str, list[ImageFile]]:
    """Groups images by class name."""
    groups: dict[str, list[ImageFile]] = {}
    for file in files:
        groups.setdefault(file.class_name, []).append(file)
    return groups


def _in_one_form(found: Found) -> Found:
    """Names the classes of val and test as in train if they differ only in Unicode form, as after unpacking on macOS.

    Raises:
        DataError: two classes of train do.
    """
    name_of: dict[str, str] = {}
    for name in found.order:
        other = name_of.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise DataError(
                f"{found.train_at}: classes {other!a} and {name!a} look the same, and differ only in Unicode form: "
                "merge them"
            )

    def named(files: ByClass) -> ByClass:
        names = {name: name_of.get(unicodedata.normalize("NFC", name), name) for name in files}
        if all(own == name for own, name in names.items()):
            return files
        return grouped(replace(file, class_name=names[own]) for own in files for file in files[own])

    return replace(found, val=None if found.val is None else named(found.val), test=named(found.test))


def _keep(files: ByClass, names: set[str]) -> tuple[ImageFile, ...]:
    kept = [file for name, group in files.items() if name in names for file in group]
    return tuple(sorted(kept, key=lambda file: file.path))


def kept_classes(settings: DatasetSettings, known: Collection[str], train_at: str) -> set[str]:
    """Returns the `known` classes that `settings` keep; raises DataError if they list none, or an unknown one."""
    if settings.classes is None:
        return set(known)
    path = expanded(settings.classes)
    lines = [line.strip() for line in _text(path, "classes").splitlines() if line.strip()]
    # A description may follow the class after a space, but a class name may contain spaces too.
    form_of = {unicodedata.normalize("NFC", name): name for name in known}
    names = [
        line if line in known else form_of.get(unicodedata.normalize("NFC", line), line.split()[0]) for line in lines
    ]
    if not names:
        raise DataError(f"{path}: names no class: write one per line")
    for name in names:
        if name not in known:
            raise DataError(f"{path}: class {name} is not in {train_at}: correct the list or the root")
    return set(names)


def _text(path: Path, key: str) -> str:
    if not path.is_file():
        raise DataError(f"{path}: no such file: set datasets.<name>.{key} to a file with one class per line")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text with one class per line: {error}") from error


def _require_known(classes: ByClass, train: ByClass, where: str, train_at: str) -> None:
    for name in sorted(classes):
        if name != NO_CLASS and name not in train:
            raise DataError(f"{where}: class {name} is not in {train_at}: add images of it there, or remove it here")


def _require_distinct(split: ByClass) -> None:
    path_of: dict[str, str] = {}
    for group in split.values():
        for file in group:
            if file.name in path_of:
                paths = f"{path_of[file.name]} and {file.path}"
                raise DataError(f"{paths}: two images have the name {file.name}: rename or remove one")
            path_of[file.name] = file.path
