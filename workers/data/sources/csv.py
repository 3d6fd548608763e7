"""Csv files that name images in folders, like most Kaggle datasets.

```
train.csv (or labels.csv, train_labels.csv)     id,label; columns may have other names
val.csv, test.csv, sample_submission.csv        each may be absent; the sample's labels are ignored
train/, train_images/, test/, images/, …        images, named by ids with or without extension
```
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from workers.data.sources.classes import NO_CLASS, Found, file_listing, grouped, naming
from workers.data.sources.files import FileListing, ImageFile, PlainFiles, may_be_image
from workers.data.sources.listing import LeftOut
from workers.data.sources.patterns import WORDS, below_root
from workers.data.sources.tree import Entry, Tree, open_root, read_text, some, walk
from workers.errors import DataError
from workers.settings import DatasetSettings, OnBad

_FILES = {
    "train": ("train.csv", "labels.csv", "train_labels.csv", "train.tsv"),
    "val": ("val.csv", "valid.csv", "validation.csv", "val.tsv"),
    "test": ("test.csv", "sample_submission.csv", "samplesubmission.csv", "test.tsv"),
}
_OWN_FOLDERS = ("{split}_images", "{split}", "images/{split}", "images_{split}")
_SHARED_FOLDER = "images"
_SPLIT = "{split}"
_IDS = ("id", "image_id", "imageid", "image", "image_name", "img", "filename", "file_name", "file", "path", "name")
_LABELS = ("label", "labels", "class", "target", "category", "species", "breed")
# Labels in a sample submission are only examples.
_SAMPLE = "sample"
_FILE_NAME = re.compile(r"\.[A-Za-z]\w{1,3}$")
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True}


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its number in the file, the image's id, and its label, "" for none."""

    number: int
    id: str
    label: str


@dataclass(frozen=True)
class Table:
    """A csv file below the root: its full path for messages, the header, and each line's number and cells."""

    path: str
    at: str
    header: tuple[str, ...]
    lines: tuple[tuple[int, tuple[str, ...]], ...]


def list_csv(settings: DatasetSettings) -> FileListing:
    """Lists a root by its csv files without reading images.

    With `on_bad=skip`, lines of train and val without an image are reported as left out. So are, always, images without
    a line in a folder that belongs to one split.

    Raises:
        DataError: train has no csv file, a column is missing, a label is empty, an id occurs twice or has no image, or
            `file_listing` raises.
    """
    root = _Root(open_root(settings), settings)
    train = root.tables["train"]
    if train is None:
        raise DataError(
            f"{root.tree.describe('')}: none of {', '.join(_FILES['train'])} inside: set datasets.<name>.train to the "
            "csv file with a line for each image"
        )
    splits = {split: root.split(split, table, train) for split, table in root.tables.items() if table is not None}
    if "test" not in splits:
        splits["test"] = root.unlisted_test()
    by_class = {name: grouped((file.class_name, file) for file in split.files) for name, split in splits.items()}
    found = Found(
        order=naming(by_class["train"], None).order(by_class["train"]),
        train=by_class["train"],
        val=by_class.get("val"),
        test=by_class["test"],
        train_at=splits["train"].at,
        val_at=splits["val"].at if "val" in splits else "",
        test_at=splits["test"].at,
        left_out=tuple(each for split in splits.values() for each in split.left_out),
    )
    return file_listing(settings, PlainFiles(root.tree), found)


@dataclass(frozen=True)
class _Split:
    at: str
    files: tuple[ImageFile, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class _Folder:
    """A folder of images below the root; `own` if all its images belong to one split."""

    path: str
    own: bool


class _Root:
    """A root, its csv files by split (None if absent), and the folders listed so far."""

    def __init__(self, tree: Tree, settings: DatasetSettings) -> None:
        self.tree = tree
        self._settings = settings
        self._images: dict[str, _Images] = {}
        self.tables = {split: self._table(split) for split in _FILES}

    def _table(self, split: str) -> Table | None:
        path = self._asked(split)
        if path is None:
            present = {entry.name.lower(): entry.path for entry in self._top if not entry.is_folder}
            path = next((present[name] for name in _FILES[split] if name in present), None)
        elif split == "test" and self._is_folder(path):
            return None
        return None if path is None else read_table(self.tree, path)

    def split(self, split: str, table: Table, train: Table) -> _Split:
        """Returns the images that the lines of a split's table name."""
        folder = self._folder(split)
        images = self._images_below(folder.path)
        may_lack = split != "test" and self._settings.on_bad is OnBad.skip
        files: list[ImageFile] = []
        left_out: list[LeftOut] = []
        line_of: dict[str, int] = {}
        for line in _lines(self._settings, split, table, train):
            where = f"{table.at}: line {line.number}"
            entry = images.find(line.id, where)
            if entry is None and not may_lack:
                place = self.tree.describe(folder.path)
                raise DataError(f"{where}: no image {line.id} in {place}: add it, or set datasets.<name>.images")
            if entry is None:
                left_out.append(LeftOut(split, line.id, f"line {line.number} of {table.path} names no image"))
                continue
            if entry.path in line_of:
                raise DataError(f"{where}: names {line.id} like line {line_of[entry.path]}: remove one of them")
            line_of[entry.path] = line.number
            files.append(ImageFile(entry.path, images.below(entry.path), line.label, entry.version))
        if folder.own:
            unnamed = (entry.path for entry in images.entries if entry.path not in line_of)
            left_out += [LeftOut(split, path, f"no line in {table.path}") for path in unnamed]
        return _Split(table.at, tuple(files), tuple(left_out))

    def unlisted_test(self) -> _Split:
        """Returns all images of test's own folder, if there is one, for a test without a csv file."""
        path = self._asked("test")
        folder = self._folder("test") if path is None else _Folder(path, own=True)
        at = self.tree.describe(folder.path)
        if not folder.own:
            return _Split(at)
        images = self._images_below(folder.path)
        if not images.entries:
            raise DataError(f"{at}: no images: add some, or remove the folder")
        return _Split(
            at, tuple(ImageFile(each.path, images.below(each.path), NO_CLASS, each.version) for each in images.entries)
        )

    @cached_property
    def _top(self) -> tuple[Entry, ...]:
        return self.tree.entries("")

    def _asked(self, split: str) -> str | None:
        asked: str | None = getattr(self._settings, split)
        if asked is None:
            return None
        path = below_root(asked, f"datasets.<name>.{split}")
        if self.tree.find(path) is None:
            raise DataError(f"{self.tree.describe(path)}: no such file: correct datasets.<name>.{split}")
        return path

    def _folder(self, split: str) -> _Folder:
        pattern = self._settings.images
        if pattern is not None:
            path = below_root(pattern.replace(_SPLIT, split), "datasets.<name>.images")
            if not self._is_folder(path):
                raise DataError(f"{self.tree.describe(path)}: no such folder: correct datasets.<name>.images")
            return _Folder(path, own=_SPLIT in pattern)
        own = [each.replace(_SPLIT, word) for each in _OWN_FOLDERS for word in WORDS[split]]
        # Val's images may lie in train's folder; then only its csv file separates them.
        others = [_SHARED_FOLDER, *(each.replace(_SPLIT, "train") for each in _OWN_FOLDERS if split == "val")]
        path = next((each for each in (*own, *others) if self._is_folder(each)), "")
        shared = split == "train" and self.tables["val"] is not None and self._folder("val").path == path
        return _Folder(path, own=path in own and not shared)

    def _is_folder(self, path: str) -> bool:
        top = path.partition("/")[0]
        at_top = not path or any(entry.is_folder and entry.name == top for entry in self._top)
        if not at_top or "/" not in path:
            return at_top
        entry = self.tree.find(path)
        return entry is not None and entry.is_folder

    def _images_below(self, folder: str) -> "_Images":
        if folder not in self._images:
            self._images[folder] = _Images(self.tree, folder)
        return self._images[folder]


# The forms of an id, tried in this order.
_KEYS: tuple[Callable[[PurePosixPath], str], ...] = (
    str,
    lambda path: str(path.with_suffix("")),
    lambda path: path.name,
    lambda path: path.stem,
)


class _Images:
    """The images below a folder at any depth, and a search by the ids of competitions."""

    def __init__(self, tree: Tree, folder: str) -> None:
        self._folder = folder
        self._indices: list[dict[str, list[Entry]]] = []
        self.entries = tuple(entry for entry in walk(tree, folder) if may_be_image(entry))

    def below(self, path: str) -> str:
        """Turns a path below the root into one below the folder."""
        return path.removeprefix(f"{self._folder}/") if self._folder else path

    def find(self, name: str, where: str) -> Entry | None:
        """Finds the image whose path is `name`, or else its path without extension, its file name, or that one's stem.

        Raises:
            DataError: several images match; `where` is for the message.
        """
        for number, key in enumerate(_KEYS):
            # An index is built only if an id is missing in those before it.
            if number == len(self._indices):
                self._indices.append(self._index(key))
            hits = self._indices[number].get(name, ())
            if len(hits) > 1:
                raise DataError(f"{where}: {name} may be {hits[0].path} or {hits[1].path}: write the full path")
            if hits:
                return hits[0]
        return None

    def _index(self, key: Callable[[PurePosixPath], str]) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(key(PurePosixPath(self.below(entry.path))), []).append(entry)
        return found


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
    if len(lines) < 2:
        raise DataError(f"{at}: no line below the header: write id,label and one line for each image")
    (_, header), *rest = lines
    for number, line in rest:
        if len(line) != len(header):
            raise DataError(f"{at}: line {number} has {len(line)} cells, its header {len(header)}: fix the line")
    return Table(path, at, header, tuple(rest))


def _lines(settings: DatasetSettings, split: str, table: Table, train: Table) -> Iterator[Line]:
    """Yields the lines of a split; `train` has the column of labels, or the columns of classes.

    Raises:
        DataError: a column is missing or ambiguous, or an id or a label is empty.
    """
    id_place = _id_place(settings, table)
    is_sample = split == "test" and PurePosixPath(table.path).name.lower().startswith(_SAMPLE)
    labels = None if is_sample else _labels(settings, table, train, id_place)
    if split == "test":
        labels = labels if labels is not None and any(labels) else None
    elif labels is None:
        raise _no_column(table, "label_column", settings.label_column)
    for index, (number, cells) in enumerate(table.lines):
        if not cells[id_place]:
            raise DataError(f"{table.at}: line {number}: no id: write the image's name, or remove the line")
        if labels is not None and not labels[index]:
            raise DataError(f"{table.at}: line {number}: no label of {cells[id_place]}: write it, or remove the line")
        yield Line(number, cells[id_place], "" if labels is None else labels[index])


def _id_place(settings: DatasetSettings, table: Table) -> int:
    if settings.id_column is None:
        usual = _usual_places(table, _IDS)
        # A column of file names is preferred to one of ids, which may be mere numbers.
        files = (place for place in usual if _FILE_NAME.search(table.lines[0][1][place]))
        return next(files, usual[0] if usual else 0)
    if settings.id_column not in table.header:
        raise _no_column(table, "id_column", settings.id_column)
    return table.header.index(settings.id_column)


def _usual_places(table: Table, known: Iterable[str]) -> list[int]:
    lower = [name.lower() for name in table.header]
    return [lower.index(name) for name in known if name in lower]


def _labels(settings: DatasetSettings, table: Table, train: Table, id_place: int) -> list[str] | None:
    """Returns the label of each line, from train's column of labels or columns of classes; None if there is none."""
    name = settings.label_column
    if name is None and (usual := _usual_places(train, _LABELS)):
        name = train.header[usual[0]]
    elif name is None and len(train.header) == 2:
        name = train.header[1 - _id_place(settings, train)]
    if name is None:
        return _marked_classes(table, train, table.header[id_place])
    if name not in table.header:
        return None
    place = table.header.index(name)
    return [cells[place] for _, cells in table.lines]


def _marked_classes(table: Table, train: Table, id_name: str) -> list[str] | None:
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
        if len(marked) != 1:
            raise DataError(f"{table.at}: line {number}: {len(marked)} classes are marked with 1: mark just one")
        labels += marked
    return labels


def _no_column(table: Table, key: str, asked: str | None) -> DataError:
    missing = "no known column of labels" if asked is None else f"no column {asked}"
    return DataError(f"{table.at}: {missing} (columns: {some(table.header)}): set datasets.<name>.{key}")
