"""From what a source found to a listing: which classes count, what is refused alike whatever the source."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.data.sources.files import Contents, FileListing, ImageFile
from workers.data.sources.listing import LeftOut
from workers.data.sources.tree import require_one_line
from workers.errors import DataError
from workers.settings import DatasetSettings

# The class of images that are to be predicted and tell none.
NO_CLASS = ""
ByClass = Mapping[str, Sequence[ImageFile]]


@dataclass(frozen=True)
class Found:
    """All images of a source, by class; `NO_CLASS` holds the unlabelled ones of test.

    Attributes:
        order: all class names; a label is an index into those of them that are kept.
        val: None where the source has none.
        train_at, val_at, test_at: where each split lies, for messages.
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


def file_listing(settings: DatasetSettings, contents: Contents, found: Found) -> FileListing:
    """The listing of what a source found, cut to the classes that `settings` keep.

    Raises:
        DataError: a class is listed and absent or has no image, val or test have one that train lacks, a split is
            empty, or two images of a split have one name.
    """
    for name in found.order:
        require_one_line(name, found.train_at)
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
        raise DataError(f"{found.val_at}: no image of the {len(wanted)} classes: fill it, or remove it")
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


@dataclass(frozen=True)
class Naming:
    """How labels as written become class names.

    Attributes:
        names: those of class 0, 1, …; None where labels are names themselves.
        numbered: labels are numbers; with `names` they are places among these.
    """

    names: tuple[str, ...] | None
    numbered: bool

    def name_of(self, label: str, where: str) -> str:
        """The class of a label; `where` is for the message."""
        if self.names is None:
            return label
        if self.numbered and label.isdecimal() and int(label) < len(self.names):
            return self.names[int(label)]
        if not self.numbered and label in self.names:
            return label
        raise DataError(f"{where}: label {label} is none of the {len(self.names)} classes (0…{len(self.names) - 1})")

    def order(self, present: Iterable[str]) -> tuple[str, ...]:
        """Classes in the order of their indices: as named, else numbers by size, else by code point."""
        if self.names is not None:
            return self.names
        return tuple(sorted(present, key=(lambda name: (int(name), name)) if self.numbered else None))


def naming(train_labels: Iterable[str], names: tuple[str, ...] | None) -> Naming:
    """The naming of a source whose train has these labels; `names` are those of its numbers, where they are known."""
    return Naming(names, all(label.isdecimal() for label in train_labels))


def read_class_names(settings: DatasetSettings) -> tuple[str, ...] | None:
    """The names of class 0, 1, … from the file that `settings` name; None without one."""
    if settings.class_names is None:
        return None
    path = Path(settings.class_names).expanduser()
    names = tuple(line.strip() for line in _text(path, "class_names").rstrip().split("\n"))
    require_names(names, str(path))
    return names


def require_names(names: Sequence[str], where: str) -> None:
    """Refuses names that cannot stand for class 0, 1, …: an empty one, or two alike."""
    if not all(names):
        raise DataError(f"{where}: the name of class {names.index('')} is empty: write a name a line")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise DataError(f"{where}: {count} classes are named {name}: make them differ, as in {name} 1 and {name} 2")


def grouped(pairs: Iterable[tuple[str, ImageFile]]) -> dict[str, list[ImageFile]]:
    """Images by their class name."""
    groups: dict[str, list[ImageFile]] = {}
    for name, file in pairs:
        groups.setdefault(name, []).append(file)
    return groups


def _keep(files: ByClass, names: set[str]) -> tuple[ImageFile, ...]:
    kept = [file for name, group in files.items() if name in names for file in group]
    return tuple(sorted(kept, key=lambda file: file.path))


def kept_classes(settings: DatasetSettings, known: Collection[str], train_at: str) -> set[str]:
    """The `known` classes that `settings` keep; raises DataError where these name none, or an unknown one."""
    if settings.classes is None:
        return set(known)
    path = Path(settings.classes).expanduser()
    lines = [line.strip() for line in _text(path, "classes").splitlines() if line.strip()]
    # The first word is the class, what follows may describe it; but a class's own name may hold spaces.
    names = [line if line in known else line.split()[0] for line in lines]
    if not names:
        raise DataError(f"{path}: names no class: write one a line")
    for name in names:
        if name not in known:
            raise DataError(f"{path}: class {name} is not in {train_at}: correct the list or the root")
    return set(names)


def _text(path: Path, key: str) -> str:
    if not path.is_file():
        raise DataError(f"{path}: no such file of classes: set datasets.<name>.{key} to one with a class a line")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text with one class a line: {error}") from error


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
