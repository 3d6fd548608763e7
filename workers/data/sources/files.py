"""A dataset of named image files, in any storage, which are split by their contents."""

import hashlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from workers.data.decoding import RULES, SUFFIXES, BadImage, Picture, Rules, decode
from workers.data.held_out import hold_out, num_held_out
from workers.data.sources.listing import UNKEPT, UNLABELLED, KeptContents, LeftOut, Loader, Row, Rows, by_name
from workers.data.sources.tree import Entry, Tree
from workers.errors import SourceLost
from workers.settings import SPLITS

# Files beside images that are no images: annotations, documents, archives, arrays, films, folder settings.
_BESIDE = {
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".rst", ".html", ".htm", ".pdf"),
    *(".xls", ".xlsx", ".docx", ".mat", ".npy", ".npz", ".pkl", ".h5", ".hdf5", ".parquet", ".db", ".ini", ".cfg"),
    *(".zip", ".gz", ".tgz", ".tar", ".7z", ".rar", ".py", ".ipynb", ".sh", ".log", ".lnk", ".url", ".aae", ".xmp"),
    *(".mp4", ".mov", ".avi", ".pt", ".pth", ".sha256", ".md5"),
}
_NOTES = {"readme", "license", "licence", "makefile", "sha256sums", "md5sums", "checksums"}
# Extensions by which a file in an unexpected place counts as an image, whether or not it can be decoded.
_IMAGES = {*SUFFIXES, ".pgm", ".ppm"}


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A listed image, not yet read.

    Attributes:
        path: the path by which its source reads it; messages show it.
        name: the row's id, the path below the split.
        class_name: "" for unlabelled.
        version: changes when the file does: its size and time, or an object store's mark.
    """

    path: str
    name: str
    class_name: str
    version: str


def may_be_image(entry: Entry) -> bool:
    """Returns whether a file counts as an image by its name; it may be damaged."""
    name = entry.name.lower()
    return not entry.is_folder and PurePosixPath(name).suffix not in _BESIDE and name not in _NOTES


def is_named_as_image(entry: Entry) -> bool:
    """Returns whether a file has the extension of an image."""
    return not entry.is_folder and PurePosixPath(entry.name).suffix.lower() in _IMAGES


@dataclass(frozen=True)
class PlainFiles:
    """Reads images that are files of their own; subclasses read others. Picklable, and many threads read at once."""

    tree: Tree

    def read(self, path: str) -> bytes:
        """Reads one image; raises BadImage if it cannot be read or is empty."""
        return self.tree.read(path)


@dataclass(frozen=True)
class FileLoader:
    """Decodes listed files.

    `load` raises SourceLost and not BadImage if a file could be read when it was hashed, but cannot be now: it may have
    been moved, or not all nodes can reach it.
    """

    contents: PlainFiles

    def load(self, row: Row, size: int, rules: Rules = RULES) -> Picture:
        try:
            content = self.contents.read(row.path)
        except BadImage as error:
            if row.content == _unreadable(row.path):
                raise
            raise SourceLost(
                f"{row.path} below {self.contents.tree.identity} could be read before, but not now on "
                f"{socket.gethostname()} ({error}): restore it on storage that all nodes share, then run it again"
            ) from error
        return decode(content, size, row.path, rules)


@dataclass(frozen=True)
class FileListing:
    """All images of a dataset, not yet read.

    Attributes:
        contents: reads the images.
        classes: a label is an index into them.
        train: images to split, in any order.
        val: None if the source has none; then `val_fraction` of train is held out.
        test: unlabelled unless `labelled_test`.
        other_held_out: val and test images of classes that are left out; they get no row, but copies of them are not
            trained on.
        left_out: images that the source has and that are in no split.
        class_ids: the names of the classes in a challenge's submissions; empty without a challenge.
    """

    contents: PlainFiles
    classes: tuple[str, ...]
    train: tuple[ImageFile, ...]
    val: tuple[ImageFile, ...] | None
    test: tuple[ImageFile, ...]
    other_held_out: tuple[ImageFile, ...]
    labelled_test: bool
    val_fraction: float
    dev_fraction: float
    left_out: tuple[LeftOut, ...] = ()
    class_ids: tuple[str, ...] = ()

    @cached_property
    def _label(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.classes)}

    @cached_property
    def _all(self) -> tuple[ImageFile, ...]:
        return (*self.train, *(self.val or ()), *self.test, *self.other_held_out)

    def counts(self) -> dict[str, int]:
        sizes = dict.fromkeys(self.classes, 0)
        for file in self.train:
            sizes[file.class_name] += 1
        val_fraction = self.val_fraction if self.val is None else 0.0
        val = {name: num_held_out(val_fraction, size) for name, size in sizes.items()}
        dev = sum(num_held_out(self.dev_fraction, size - val[name]) for name, size in sizes.items())
        num_val = sum(val.values())
        return {
            "train": len(self.train) - num_val - dev,
            "dev": dev,
            "val": num_val if self.val is None else len(self.val),
            "test": len(self.test),
        }

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.contents.tree.identity.encode(errors="surrogateescape") + b"\0")
        for files in (self.train, self.val, self.test, self.other_held_out):
            # The count tells an image that moved from the end of one split to the start of the next.
            digest.update(f"{'none' if files is None else len(files)}\0".encode())
            for file in files or ():
                digest.update(f"{file.path}\0{file.name}\0{file.class_name}\0{file.version}\0".encode())
        digest.update("".join(f"\0{class_id}" for class_id in self.class_ids).encode())
        return digest.hexdigest()

    def named_classes(self) -> dict[str, dict[str, str]]:
        splits = {"train": self.train, "val": self.val or (), "test": self.test}
        return {split: {file.name: file.class_name for file in files} for split, files in splits.items()}

    def rows(self, progress: Callable[[int, int], None], kept: KeptContents = UNKEPT) -> Rows:
        contents: dict[str, bytes] = {}
        read = kept.hashed(self._content, self._all, self.contents.tree.num_readers)
        for file, content in zip(self._all, read, strict=True):
            contents[file.path] = content
            progress(len(contents), len(self._all))
        by_class: dict[str, list[bytes]] = {name: [] for name in self.classes}
        for file in self.train:
            by_class[file.class_name].append(contents[file.path])
        held_out = hold_out(by_class.values(), self.val_fraction if self.val is None else 0.0, self.dev_fraction)
        published = {contents[file.path]: file.path for file in (*self.test, *(self.val or ()), *self.other_held_out)}
        splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
        left_out = list(self.left_out)
        for file in self.train:
            content = contents[file.path]
            if content in published:
                # Training must not see a copy of an image that is scored or predicted.
                left_out.append(LeftOut("train", file.path, f"same content as {published[content]}"))
            else:
                splits[held_out.split_of(content)].append(self._row(file, content))
        splits["val"] += [self._row(file, contents[file.path]) for file in self.val or ()]
        splits["test"] += [self._row(file, contents[file.path]) for file in self.test]
        return Rows({split: by_name(rows) for split, rows in splits.items()}, tuple(left_out))

    def _row(self, file: ImageFile, content: bytes) -> Row:
        return Row(file.name, file.path, self._label.get(file.class_name, UNLABELLED), content)

    def _content(self, file: ImageFile) -> bytes:
        try:
            return hashlib.sha256(self.contents.read(file.path)).digest()
        except BadImage:
            return _unreadable(file.path)

    def loader(self) -> Loader:
        return FileLoader(self.contents)


def _unreadable(path: str) -> bytes:
    """Returns a stand-in for the content of an unreadable file; no two such files count as copies."""
    return hashlib.sha256(b"unreadable\0" + path.encode()).digest()
