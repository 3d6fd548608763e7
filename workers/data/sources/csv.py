"""Csv files that name images in folders, like most Kaggle datasets.

```
train.csv (or labels.csv, trainLabels.csv, …)   id,label; columns may have other names, or there is one for each class
val.csv, test.csv, sample_submission.csv        each may be absent; the sample's labels are ignored
train/_classes.csv, valid/_classes.csv, …       in their place, as Roboflow writes them
train/, train_images/, test/, images/, …        images, named by ids with or without extension
```
"""

import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from workers.data.sources.classes import NO_CLASS, Found, Naming, SplitLabels, file_listing, grouped, naming
from workers.data.sources.csv_table import Table, id_place, label_name, labels_of, no_column, read_table, values_by_id
from workers.data.sources.files import FileListing, ImageFile, PlainFiles, is_named_as_image, may_be_image
from workers.data.sources.listing import LeftOut
from workers.data.sources.patterns import WORDS, below_root, require_one
from workers.data.sources.tree import Entry, Tree, open_root, walk
from workers.errors import DataError, some
from workers.settings import DatasetSettings, OnBad

# The names of each split's file, in the order in which they are looked for; those of a group mean the same.
_FILES = {
    "train": (("{split}.csv",), ("labels.csv",), ("{split}_labels.csv", "{split}labels.csv"), ("{split}.tsv",)),
    "val": (("{split}.csv",), ("{split}.tsv",)),
    "test": (("{split}.csv",), ("sample_submission.csv", "samplesubmission.csv"), ("{split}.tsv",)),
}
_ROBOFLOW = "_classes.csv"
_OWN_FOLDERS = ("{split}_images", "{split}", "images/{split}", "images_{split}")
_SHARED_FOLDER = "images"
_SPLIT = "{split}"
# Labels in a sample submission are only examples.
_SAMPLE = "sample"


def list_csv(settings: DatasetSettings) -> FileListing:
    """Lists a root by its csv files without reading images.

    With `on_bad=skip`, lines of train and val without an image or a label are reported as left out. So are, always,
    images without a line.

    Raises:
        DataError: train has no csv file, a column is missing or ambiguous, a label is missing, an id occurs twice or
            has no image, or `file_listing` raises.
    """
    root = _Root(open_root(settings), settings)
    train = root.tables["train"]
    if train is None:
        raise DataError(
            f"{root.tree.describe('')}: none of train.csv, labels.csv, train_labels.csv, trainLabels.csv, train.tsv, "
            f"train/{_ROBOFLOW} inside: set datasets.<name>.train to the csv file with a line for each image"
        )
    columns = {split: root.columns(split, table, train) for split, table in root.tables.items() if table is not None}
    names = naming(columns["train"].labels or (), None, train.at)
    splits = {split: root.split(split, each, names) for split, each in columns.items()}
    if "test" not in splits:
        splits["test"] = root.unlisted_test()
    left_out = [each for split in splits.values() for each in split.left_out]
    told = {file.path for split in splits.values() for file in split.files} | {each.path for each in left_out}
    by_class = {name: grouped(split.files) for name, split in splits.items()}
    found = Found(
        order=names.order(by_class["train"]),
        train=by_class["train"],
        val=by_class.get("val"),
        test=by_class["test"],
        train_at=splits["train"].at,
        val_at=splits["val"].at if "val" in splits else "",
        test_at=splits["test"].at,
        left_out=(*left_out, *root.unlisted(told)),
    )
    return file_listing(settings, PlainFiles(root.tree), found)


def column_of_train(settings: DatasetSettings, name: str) -> dict[str, str]:
    """Returns a column of train's csv file by the ids; raises DataError if there is none of that name."""
    root = _Root(open_root(settings), settings)
    table = root.tables["train"]
    if table is None or name not in table.header:
        columns = f" (columns: {some(table.header, 10)})" if table else ""
        raise DataError(f"{root.tree.describe('')}: its csv file of train has no column {name}{columns}")
    return values_by_id(table, root.columns("train", table, table).ids, table.column(table.header.index(name)))


@dataclass(frozen=True)
class _Columns:
    """The id of each line of a table, and its label as written; None if the table has no labels."""

    table: Table
    ids: tuple[str, ...]
    labels: tuple[str, ...] | None


@dataclass(frozen=True)
class _Split:
    at: str
    files: tuple[ImageFile, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


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
            path = self._usual_table(split)
        elif split == "test" and self._is_folder(path):
            return None
        return None if path is None else read_table(self.tree, path)

    def _usual_table(self, split: str) -> str | None:
        for group in _FILES[split]:
            names = {name.replace(_SPLIT, word) for name in group for word in WORDS[split]}
            named = [entry for entry in self._top if not entry.is_folder and entry.name.lower() in names]
            require_one(self.tree, split, named, f"set datasets.<name>.{split} to one of them")
            if named:
                return named[0].path
        inside = (f"{folder}/{_ROBOFLOW}" for folder in self._own_folders(split))
        return next((path for path in inside if self.tree.find(path) is not None), None)

    def columns(self, split: str, table: Table, train: Table) -> _Columns:
        """Finds the ids and labels of a split's table; `train` has the column of labels, or those of the classes."""

        def find(split: str) -> Callable[[str], str | None]:
            return self._images_below(self._folder(split)).only

        place = id_place(self._settings, table, find(split))
        train_place = place if table is train else id_place(self._settings, train, find("train"))
        name = label_name(self._settings, train, train_place)
        is_sample = split == "test" and PurePosixPath(table.path).name.lower().startswith(_SAMPLE)
        labels = None if is_sample else labels_of(table, train, name, table.header[place])
        if labels is None and split != "test":
            raise no_column(table, "label_column", self._settings.label_column)
        return _Columns(table, table.column(place), labels)

    def split(self, split: str, columns: _Columns, names: Naming) -> _Split:
        """Returns the images that the lines of a split's table name."""
        table, folder = columns.table, self._folder(split)
        images = self._images_below(folder)
        may_lack = split != "test" and self._settings.on_bad is OnBad.skip
        written = columns.labels or ("",) * len(columns.ids)
        labels = SplitLabels(self._settings, split, names, written, "line")
        files: list[ImageFile] = []
        left_out: list[LeftOut] = []
        line_of: dict[str, int] = {}
        for (number, _), name, label in zip(table.lines, columns.ids, written, strict=True):
            where = f"{table.at}: line {number}"
            if not name:
                raise DataError(f"{where}: no id: write the image's name, or remove the line")
            entry = images.find(name, where)
            if entry is None and not may_lack:
                place = self.tree.describe(folder)
                raise DataError(f"{where}: no image {name} in {place}: add it, or set datasets.<name>.images")
            if entry is None:
                left_out.append(LeftOut(split, name, f"line {number} of {table.path} names no image"))
                continue
            if entry.path in line_of:
                raise DataError(f"{where}: names {name} like line {line_of[entry.path]}: remove one of them")
            line_of[entry.path] = number
            class_name = labels.class_of(label, f"{where}: {name}", entry.path)
            if class_name is not None:
                files.append(ImageFile(entry.path, images.below(entry.path), class_name, entry.version))
        return _Split(table.at, tuple(files), (*left_out, *labels.left_out))

    def unlisted_test(self) -> _Split:
        """Returns all images of test's own folder, if there is one, for a test without a csv file."""
        asked, pattern = self._asked("test"), self._settings.images
        folder = asked or self._folder("test")
        at = self.tree.describe(folder)
        is_own = folder in self._own_folders("test") if pattern is None else _SPLIT in pattern
        if not (asked or is_own):
            return _Split(at)
        images = self._images_below(folder)
        if not images.entries:
            raise DataError(f"{at}: no images: add some, or remove the folder")
        return _Split(
            at, tuple(ImageFile(each.path, images.below(each.path), NO_CLASS, each.version) for each in images.entries)
        )

    def unlisted(self, told: Collection[str]) -> tuple[LeftOut, ...]:
        """Returns the images that are not `told` of, below the root or where `datasets.<name>.images` says."""
        is_known = self._settings.images is not None or "" in self._images
        folders = [*self._images] if is_known else [each.path for each in self._top if each.is_folder]
        every = {entry.path for folder in folders for entry in self._images_below(folder).entries}
        every |= {entry.path for entry in self._top if is_named_as_image(entry)}
        return tuple(
            LeftOut("every split", path, "no csv file has a line for it") for path in sorted(every.difference(told))
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

    def _folder(self, split: str) -> str:
        pattern = self._settings.images
        if pattern is not None:
            path = below_root(pattern.replace(_SPLIT, split), "datasets.<name>.images")
            if not self._is_folder(path):
                raise DataError(f"{self.tree.describe(path)}: no such folder: correct datasets.<name>.images")
            return path
        # Val's images may lie in train's folder; then only its csv file separates them.
        others = [_SHARED_FOLDER, *(each.replace(_SPLIT, "train") for each in _OWN_FOLDERS if split == "val")]
        return next((each for each in (*self._own_folders(split), *others) if self._is_folder(each)), "")

    def _own_folders(self, split: str) -> list[str]:
        """Returns the folders that are named for a split, the likeliest first."""
        names = [each.replace(_SPLIT, word) for each in _OWN_FOLDERS for word in WORDS[split]]
        # In other letter cases they are looked for only where no table names their images: elsewhere the whole root is
        # searched for them, and a row is named by its path below that.
        top = [entry.path for entry in self._top if entry.is_folder]
        if split == "test":
            names += [path for name in names for path in top if path.lower() == name != path]
        return [name for name in names if self._is_folder(name)]

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
        self._folder, self._root = folder, tree.describe("")
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
            # Archives of macOS write names in the other Unicode form than most editors.
            # Some tables have whole paths, or those from the root or the table, with the separators of Windows.
            below = name.replace("\\", "/").removeprefix(f"{self._root}/")
            plain = str(PurePosixPath(below)).removeprefix(f"{self._folder}/")
            forms = dict.fromkeys(
                (name, *(unicodedata.normalize(form, each) for each in (name, plain) for form in ("NFC", "NFD")))
            )
            hits = next((found for form in forms if (found := self._indices[number].get(form))), [])
            if len(hits) > 1:
                raise DataError(f"{where}: {name} may be {hits[0].path} or {hits[1].path}: write the full path")
            if hits:
                return hits[0]
        return None

    def only(self, name: str) -> str | None:
        """Returns the path of the only image that `name` finds, None if there is none or several."""
        try:
            entry = self.find(name, "") if name else None
        except DataError:
            return None
        return None if entry is None else entry.path

    def _index(self, key: Callable[[PurePosixPath], str]) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(key(PurePosixPath(self.below(entry.path))), []).append(entry)
        return found
