"""A folder of images: class folders, or Tiny-ImageNet's published layout.

`train/<class>/*`, `val/<class>/*` (optional), `test/*` or `test/<class>/*`. The published layout puts `images/`
between a class (or `val`, `test`) and its files, and names val's classes in `val/val_annotations.txt`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from workers.data.sources.classes import NO_CLASS, Found, file_listing, grouped
from workers.data.sources.files import FileListing, ImageFile, PlainFiles, may_be_image
from workers.data.sources.tree import Entry, Tree, open_root, read_text
from workers.errors import DataError
from workers.settings import DatasetSettings
from workers.threads import map_in_order

IMAGES_FOLDER = "images"
ANNOTATIONS = "val_annotations.txt"


def list_folder(settings: DatasetSettings) -> FileListing:
    """Lists a root without reading images.

    Raises:
        DataError: the root is missing, train has no classes or an empty class, a folder or annotation is misplaced, or
            `file_listing` raises.
    """
    tree = open_root(settings)
    inside = {entry.name for entry in tree.entries("") if entry.is_folder}
    if "train" not in inside:
        raise DataError(f"{tree.describe('')}: no train/ inside: put images in train/<class>/, or correct the root")
    train = _class_folders(tree, "train")
    if not train:
        raise DataError(f"{tree.describe('train')}: no class folders: put images in train/<class>/")
    found = Found(
        order=tuple(sorted(train)),
        train=train,
        val=_val(tree) if "val" in inside else None,
        test=_test(tree, train) if "test" in inside else {},
        train_at="train/",
        val_at=tree.describe("val"),
        test_at=tree.describe("test"),
    )
    return file_listing(settings, PlainFiles(tree), found)


def _files(class_name: str, entries: Iterable[Entry]) -> list[ImageFile]:
    return [
        ImageFile(entry.path, entry.path.partition("/")[2], class_name, entry.version)
        for entry in entries
        if may_be_image(entry)
    ]


def _class_folders(tree: Tree, split: str) -> dict[str, list[ImageFile]]:
    """Lists each class folder of a split; raises DataError if a class is empty or an image is in no class folder."""
    entries = tree.entries(split)
    for entry in entries:
        if may_be_image(entry):
            raise DataError(f"{tree.describe(entry.path)}: not in a class folder: move it to {split}/<class>/")
    folders = [entry for entry in entries if entry.is_folder]
    listed = map_in_order(partial(_class_files, tree), folders, tree.num_readers)
    return {folder.name: files for folder, files in zip(folders, listed, strict=True)}


def _class_files(tree: Tree, folder: Entry) -> list[ImageFile]:
    entries = tree.entries(folder.path)
    files = _files(folder.name, entries)
    for entry in entries:
        if entry.is_folder and entry.name == IMAGES_FOLDER:
            files += _files(folder.name, tree.entries(entry.path))
        elif entry.is_folder:
            raise DataError(
                f"{tree.describe(entry.path)}: a folder inside a class: move its images up to "
                f"{tree.describe(folder.path)}"
            )
    if not files:
        raise DataError(f"{tree.describe(folder.path)}: the class folder is empty: add images, or remove the folder")
    return files


def _val(tree: Tree) -> dict[str, list[ImageFile]]:
    annotated = any(entry.name == ANNOTATIONS for entry in tree.entries("val"))
    return _annotated(tree) if annotated else _class_folders(tree, "val")


def _annotated(tree: Tree) -> dict[str, list[ImageFile]]:
    """Groups val/images/* by the classes in the annotations (tab-separated: file, class, box)."""
    path, folder = f"val/{ANNOTATIONS}", f"val/{IMAGES_FOLDER}"
    lines = [line.split("\t") for line in read_text(tree, path).splitlines() if line.strip()]
    for number, fields in enumerate(lines, start=1):
        if len(fields) < 2:
            raise DataError(f"{tree.describe(path)}: entry {number} has no class: write the file, a tab and the class")
    class_of = {fields[0].strip(): fields[1].strip() for fields in lines}
    if not any(entry.name == IMAGES_FOLDER for entry in tree.entries("val")):
        raise DataError(f"{tree.describe(folder)}: no such folder, but {ANNOTATIONS} lists its images: add it")
    known = []
    for file in _files(NO_CLASS, tree.entries(folder)):
        name = file.path.rsplit("/", 1)[-1]
        if name not in class_of:
            raise DataError(f"{tree.describe(file.path)}: no line in {ANNOTATIONS}: add one, or remove the image")
        known.append(replace(file, class_name=class_of.pop(name)))
    if class_of:
        raise DataError(
            f"{tree.describe(path)}: lists {min(class_of)}, which is not in {tree.describe(folder)}: restore the image"
        )
    return grouped((file.class_name, file) for file in known)


def _test(tree: Tree, train: Mapping[str, object]) -> dict[str, list[ImageFile]]:
    """Lists test, which is flat and unlabelled or has class folders."""
    entries = tree.entries("test")
    folders = {entry.name for entry in entries if entry.is_folder}
    flat = _files(NO_CLASS, entries)
    if folders == {IMAGES_FOLDER} and IMAGES_FOLDER not in train:
        flat += _files(NO_CLASS, tree.entries(f"test/{IMAGES_FOLDER}"))
        folders = set()
    if folders:
        return _class_folders(tree, "test")
    if not flat:
        raise DataError(f"{tree.describe('test')}: no images: add some, or remove test/")
    return {NO_CLASS: flat}
