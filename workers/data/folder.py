"""A folder of images: class folders, or Tiny-ImageNet's published layout.

`train/<class>/*`, `val/<class>/*` (optional), `test/*` or `test/<class>/*`. The published layout puts `images/`
between a class (or `val`, `test`) and its files, and names val's classes in `val/val_annotations.txt`.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from workers.data.decode import read_content
from workers.data.files import FileListing, ImageFile
from workers.errors import DataError
from workers.settings import DatasetSettings

IMAGES_FOLDER = "images"
ANNOTATIONS = "val_annotations.txt"
# Files that lie beside images and are none: annotations, thumbnails, folder settings.
_BESIDE = {".txt", ".csv", ".tsv", ".json", ".xml", ".yaml", ".md", ".html", ".mat", ".db", ".ini"}


@dataclass(frozen=True)
class LocalFiles:
    """Files below a folder of this machine, or of storage that it mounts."""

    root: Path

    @property
    def identity(self) -> str:
        return str(self.root.resolve())

    def read(self, path: str) -> bytes:
        return read_content(self.root / path)


def list_folder(settings: DatasetSettings) -> FileListing:
    """Lists a root; reads no image.

    Raises:
        DataError: no root, no class, an empty class, a listed class that is absent, a class of val or test that
            train lacks, or names that cannot be told apart.
    """
    if settings.root is None:
        raise DataError("no root: set datasets.<name>.root=FOLDER")
    root = Path(settings.root).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder: set datasets.<name>.root to the folder that holds train/")
    if not (root / "train").is_dir():
        raise DataError(f"{root}: no train/ inside: the root must hold train/<class>/ with images")
    train = _class_folders(root, "train")
    if not train:
        raise DataError(f"{root / 'train'}: no class folders: put images in train/<class>/")
    wanted = set(train) if settings.classes is None else set(_wanted_classes(settings.classes, root, train))
    val = _val(root, train) if (root / "val").is_dir() else None
    test = _test(root, train) if (root / "test").is_dir() else {}
    listing = FileListing(
        contents=LocalFiles(root),
        classes=tuple(sorted(wanted)),
        train=_keep(train, wanted),
        val=None if val is None else _keep(val, wanted),
        test=_keep(test, wanted | {""}),
        other_held_out=_keep(val or {}, set(train) - wanted) + _keep(test, set(train) - wanted),
        labelled_test=bool(test) and "" not in test,
        val_fraction=settings.val_fraction,
        dev_fraction=settings.dev_fraction,
    )
    if listing.val == ():
        raise DataError(f"{root / 'val'}: no image of the {len(wanted)} classes: fill val/, or remove it")
    return listing


def _keep(files: Mapping[str, list[ImageFile]], names: set[str]) -> tuple[ImageFile, ...]:
    kept = [file for name, group in files.items() if name in names for file in group]
    return tuple(sorted(kept, key=lambda file: file.path))


def _wanted_classes(classes: str, root: Path, train: Mapping[str, object]) -> list[str]:
    path = Path(classes).expanduser()
    if not path.is_file():
        raise DataError(f"{path}: no such file of classes: set datasets.<name>.classes to one with a class a line")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text with one class a line: {error}") from error
    # The first word is the class, what follows may describe it; but a class's own name may hold spaces.
    names = [line if line in train else line.split()[0] for line in lines]
    if not names:
        raise DataError(f"{path}: names no class: write one a line")
    for name in names:
        if name not in train:
            raise DataError(f"{path}: class {name} has no folder in {root / 'train'}: correct the list or the root")
    return names


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, in code-point order, without hidden entries; every name fits on a line of UTF-8."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda each: each.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error
    for entry in found:
        if entry.name.splitlines() != [entry.name] or any("\ud800" <= letter <= "\udfff" for letter in entry.name):
            raise DataError(f"{folder}: the name {entry.name!a} does not fit on one line of UTF-8: rename it")
    return found


def _is_image(entry: os.DirEntry[str]) -> bool:
    return not entry.is_dir() and Path(entry.name).suffix.lower() not in _BESIDE


def _files(below: str, class_name: str, entries: Iterable[os.DirEntry[str]]) -> list[ImageFile]:
    files = []
    for entry in entries:
        if _is_image(entry):
            try:
                status = entry.stat()
                version = f"{status.st_size}\0{status.st_mtime_ns}"
            except OSError:
                version = "missing"
            path = f"{below}/{entry.name}"
            files.append(ImageFile(path, path.partition("/")[2], class_name, version))
    return files


def _class_folders(root: Path, split: str) -> dict[str, list[ImageFile]]:
    """The files of each class folder of a split; refuses an empty class, and images outside any class."""
    classes: dict[str, list[ImageFile]] = {}
    for entry in _entries(root / split):
        if _is_image(entry):
            raise DataError(f"{entry.path}: lies outside any class folder: move it to {split}/<class>/")
        if entry.is_dir():
            classes[entry.name] = _class_files(root, f"{split}/{entry.name}", entry.name)
    return classes


def _class_files(root: Path, below: str, class_name: str) -> list[ImageFile]:
    entries = _entries(root / below)
    files = _files(below, class_name, entries)
    for entry in entries:
        if entry.is_dir() and entry.name == IMAGES_FOLDER:
            inner = f"{below}/{IMAGES_FOLDER}"
            files += _files(inner, class_name, _entries(root / inner))
        elif entry.is_dir():
            raise DataError(f"{entry.path}: a folder inside a class: move its images up to {root / below}")
    if not files:
        raise DataError(f"{root / below}: the class folder is empty: add images, or remove the folder")
    return files


def _val(root: Path, train: Mapping[str, object]) -> dict[str, list[ImageFile]]:
    annotations = root / "val" / ANNOTATIONS
    classes = _annotated(root, annotations) if annotations.is_file() else _class_folders(root, "val")
    _require_known(classes, train, annotations if annotations.is_file() else root / "val")
    return classes


def _require_known(classes: Iterable[str], train: Mapping[str, object], where: Path) -> None:
    for name in sorted(classes):
        if name not in train:
            raise DataError(f"{where}: class {name} is not in train/: add train/{name}/, or remove it here")


def _annotated(root: Path, annotations: Path) -> dict[str, list[ImageFile]]:
    """val/images/* by the class that the annotations (tab-separated: file, class, box) name for each."""
    try:
        lines = [line.split("\t") for line in annotations.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{annotations}: cannot be read: {error}") from error
    for number, fields in enumerate(lines, start=1):
        if len(fields) < 2:
            raise DataError(f"{annotations}: entry {number} has no class: write file, tab, class")
    class_of = {fields[0].strip(): fields[1].strip() for fields in lines}
    folder = root / "val" / IMAGES_FOLDER
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, though {annotations.name} lists its images")
    classes: dict[str, list[ImageFile]] = {}
    for file in _files(f"val/{IMAGES_FOLDER}", "", _entries(folder)):
        name = Path(file.path).name
        if name not in class_of:
            raise DataError(f"{folder / name}: has no line in {annotations.name}: add one, or remove the image")
        known = replace(file, class_name=class_of.pop(name))
        classes.setdefault(known.class_name, []).append(known)
    if class_of:
        raise DataError(f"{annotations}: lists {min(class_of)}, which is not in {folder}: restore the image")
    return classes


def _test(root: Path, train: Mapping[str, object]) -> dict[str, list[ImageFile]]:
    """Flat and unlabelled (class ""), or class folders."""
    folder = root / "test"
    entries = _entries(folder)
    folders = {entry.name for entry in entries if entry.is_dir()}
    flat = _files("test", "", entries)
    if folders == {IMAGES_FOLDER} and IMAGES_FOLDER not in train:
        flat += _files(f"test/{IMAGES_FOLDER}", "", _entries(folder / IMAGES_FOLDER))
        folders = set()
    if not folders:
        if not flat:
            raise DataError(f"{folder}: no images: fill test/, or remove it")
        return {"": flat}
    classes = _class_folders(root, "test")
    _require_known(classes, train, folder)
    return classes
