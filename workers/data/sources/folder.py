"""A folder of images: class folders, or Tiny-ImageNet's or Kaggle's ILSVRC layout as published.

`train/<class>/*`, `val/<class>/*` (optional), `test/*` or `test/<class>/*`; `valid/`, `Val/`, `testing/` and so on mean
the same. Without any of them, class folders in the root are train.

Tiny-ImageNet puts `images/` between a class (or `val`, `test`) and its files, and names val's classes in
`val/val_annotations.txt`. Kaggle's ILSVRC has the splits in `ILSVRC/Data/CLS-LOC/`, and names val's classes in
`LOC_val_solution.csv`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath

from workers.data.sources.classes import NO_CLASS, Found, file_listing, grouped
from workers.data.sources.csv_table import read_table
from workers.data.sources.files import FileListing, ImageFile, PlainFiles, may_be_image
from workers.data.sources.patterns import split_folders
from workers.data.sources.root import other_folders, require_class_folders
from workers.data.sources.tree import Entry, Tree, open_root, read_text
from workers.errors import DataError
from workers.settings import DatasetSettings
from workers.threads import map_in_order

IMAGES_FOLDER = "images"
ANNOTATIONS = "val_annotations.txt"
# Folders that stand between test/ and its unlabelled images; loaders of other programs need one.
_NO_CLASSES = {IMAGES_FOLDER, "test", "unknown", "unlabelled", "unlabeled", "all"}
KAGGLE_ILSVRC = "ILSVRC/Data/CLS-LOC"
_KAGGLE_VAL = "LOC_val_solution.csv"
_KAGGLE_CLASSES = "LOC_synset_mapping.txt"


def list_folder(settings: DatasetSettings) -> FileListing:
    """Lists a root without reading images.

    Folders of images beside the splits are refused, or with `on_bad=skip` reported as left out.

    Raises:
        DataError: the root is missing, train has no classes or an empty class, a folder or annotation is misplaced, or
            `file_listing` raises.
    """
    tree = open_root(settings)
    is_kaggle = tree.find(KAGGLE_ILSVRC) is not None
    folders = split_folders(tree, KAGGLE_ILSVRC if is_kaggle else "")
    is_flat = "train" not in folders
    if is_flat:
        require_class_folders(tree, folders)
        folders = {"train": ""}
    train = _class_folders(tree, folders["train"])
    if not train:
        raise DataError(f"{tree.describe(folders['train'])}: no class folders: put images in train/<class>/")
    order = _kaggle_order(tree) if is_kaggle else ()
    found = Found(
        order=order or tuple(sorted(train)),
        train={**dict.fromkeys(order, ()), **train},
        val=_val(tree, folders["val"], is_kaggle=is_kaggle) if "val" in folders else None,
        test=_test(tree, folders["test"], train) if "test" in folders else {},
        train_at=tree.describe("") if is_flat else f"{folders['train']}/",
        val_at=tree.describe(folders.get("val", "val")),
        test_at=tree.describe(folders.get("test", "test")),
        left_out=() if is_kaggle else other_folders(tree, settings.on_bad, train if is_flat else folders.values()),
    )
    return file_listing(settings, PlainFiles(tree), found)


def _files(class_name: str, entries: Iterable[Entry], split: str) -> list[ImageFile]:
    """Returns the images among the entries; their names are their paths below the folder of the split."""
    above = f"{split}/" if split else ""
    return [
        ImageFile(entry.path, entry.path.removeprefix(above), class_name, entry.version)
        for entry in entries
        if may_be_image(entry)
    ]


def _class_folders(tree: Tree, split: str) -> dict[str, list[ImageFile]]:
    """Lists each class folder of a split; raises DataError if a class is empty or an image is in no class folder."""
    entries = tree.entries(split)
    for entry in entries:
        if split and may_be_image(entry):
            raise DataError(
                f"{tree.describe(entry.path)}: not in a class folder: move it to {split}/<class>/, or set "
                "datasets.<name>.source=csv if a csv file names the labels"
            )
    folders = [entry for entry in entries if entry.is_folder]
    listed = map_in_order(partial(_class_files, tree, split), folders, tree.num_readers)
    return {folder.name: files for folder, files in zip(folders, listed, strict=True)}


def _class_files(tree: Tree, split: str, folder: Entry) -> list[ImageFile]:
    entries = tree.entries(folder.path)
    files = _files(folder.name, entries, split)
    for entry in entries:
        if entry.is_folder and entry.name == IMAGES_FOLDER:
            files += _files(folder.name, tree.entries(entry.path), split)
        elif entry.is_folder:
            raise DataError(
                f"{tree.describe(entry.path)}: a folder inside a class: move its images up to "
                f"{tree.describe(folder.path)}"
            )
    if not files:
        raise DataError(f"{tree.describe(folder.path)}: the class folder is empty: add images, or remove the folder")
    return files


@dataclass(frozen=True)
class _Annotations:
    """The classes of val's images by name: `key` gives the name of a file there, `path` is the list's."""

    class_of: Mapping[str, str]
    key: Callable[[PurePosixPath], str]
    path: str


def _val(tree: Tree, folder: str, *, is_kaggle: bool) -> dict[str, list[ImageFile]]:
    if is_kaggle and tree.find(_KAGGLE_VAL) is not None:
        return _annotated(tree, folder, folder, _kaggle_annotations(tree))
    annotations = f"{folder}/{ANNOTATIONS}"
    if tree.find(annotations) is not None:
        return _annotated(tree, folder, f"{folder}/{IMAGES_FOLDER}", _tiny_annotations(tree, annotations))
    return _class_folders(tree, folder)


def _tiny_annotations(tree: Tree, path: str) -> _Annotations:
    """Reads the classes of val's images (tab-separated: file, class, box)."""
    lines = [line.split("\t") for line in read_text(tree, path).splitlines() if line.strip()]
    for number, fields in enumerate(lines, start=1):
        if len(fields) < 2:
            raise DataError(f"{tree.describe(path)}: entry {number} has no class: write the file, a tab and the class")
    return _Annotations({fields[0].strip(): fields[1].strip() for fields in lines}, lambda name: name.name, path)


def _kaggle_annotations(tree: Tree) -> _Annotations:
    """Reads the classes of val's images (`ImageId,PredictionString`: a stem, then class and box of each object)."""
    class_of = {}
    for number, cells in read_table(tree, _KAGGLE_VAL).lines:
        words = cells[1].split() if len(cells) > 1 else []
        if not words:
            raise DataError(f"{tree.describe(_KAGGLE_VAL)}: line {number} has no class: fetch the file again")
        class_of[cells[0]] = words[0]
    return _Annotations(class_of, lambda name: name.stem, _KAGGLE_VAL)


def _kaggle_order(tree: Tree) -> tuple[str, ...]:
    """Returns the WNIDs in the order of the challenge's list; empty without one."""
    if tree.find(_KAGGLE_CLASSES) is None:
        return ()
    return tuple(line.split()[0] for line in read_text(tree, _KAGGLE_CLASSES).splitlines() if line.strip())


def _annotated(tree: Tree, split: str, images: str, annotations: _Annotations) -> dict[str, list[ImageFile]]:
    """Groups val by the annotations: images in the folder `images`, and those that a script sorted into class folders.

    Raises:
        DataError: an image has no annotation, an annotation no image, or a class folder is not the annotated one.
    """
    path, class_of = annotations.path, dict(annotations.class_of)
    inside = [entry for entry in tree.entries(split) if entry.is_folder and entry.path != images]
    sorted_in = [file for entry in inside for file in _class_files(tree, split, entry)]
    if not sorted_in and tree.find(images) is None:
        name = path.rpartition("/")[2]
        raise DataError(f"{tree.describe(images)}: no such folder, but {name} lists its images: add it")
    flat = _files(NO_CLASS, tree.entries(images), split) if tree.find(images) is not None else []
    known = []
    for file in (*flat, *sorted_in):
        name = annotations.key(PurePosixPath(file.path))
        told = class_of.pop(name, file.class_name)
        if told == NO_CLASS:
            raise DataError(f"{tree.describe(file.path)}: no line in {path}: add one, or remove the image")
        if file.class_name not in (NO_CLASS, told):
            raise DataError(f"{tree.describe(file.path)}: {path} has it in another class, {told}: move it there")
        known.append(replace(file, class_name=told))
    if class_of:
        raise DataError(
            f"{tree.describe(path)}: lists {min(class_of)}, which is not in {tree.describe(images)}: restore the image"
        )
    return grouped(known)


def _test(tree: Tree, folder: str, train: Mapping[str, object]) -> dict[str, list[ImageFile]]:
    """Lists test, which is flat and unlabelled or has class folders."""
    entries = tree.entries(folder)
    folders = {entry.name for entry in entries if entry.is_folder}
    flat = _files(NO_CLASS, entries, folder)
    if len(folders) == 1 and folders <= _NO_CLASSES and not folders & train.keys():
        flat += _files(NO_CLASS, tree.entries(f"{folder}/{folders.pop()}"), folder)
    if folders:
        return _class_folders(tree, folder)
    if not flat:
        raise DataError(f"{tree.describe(folder)}: no images: add some, or remove {folder}/")
    return {NO_CLASS: flat}
