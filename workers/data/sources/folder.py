"""A folder of images: class folders, or Tiny-ImageNet's or Kaggle's ILSVRC layout as published.

`train/<class>/*`, `val/<class>/*` (optional), `test/*` or `test/<class>/*`; `valid/`, `Val/`, `testing/` and so on mean
the same. Without any of them, class folders in the root are train.

Tiny-ImageNet puts `images/` between a class (or `val`, `test`) and its files, and names val's classes in
`val/val_annotations.txt`. Kaggle's ILSVRC has the splits in `ILSVRC/Data/CLS-LOC/`, and names val's classes in
`LOC_val_solution.csv`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath

from workers.data.sources.classes import NO_CLASS, Found, file_listing, grouped
from workers.data.sources.csv_table import Table, read_table, values_by_id
from workers.data.sources.files import FileListing, ImageFile, PlainFiles, is_named_as_image, may_be_image
from workers.data.sources.listing import LeftOut
from workers.data.sources.patterns import split_folders, split_word
from workers.data.sources.tree import Entry, Tree, open_root, read_text, walk
from workers.errors import DataError, some
from workers.settings import DatasetSettings, OnBad
from workers.threads import map_in_order

IMAGES_FOLDER = "images"
ANNOTATIONS = "val_annotations.txt"
# Folders that stand between test/ and its unlabelled images; loaders of other programs need one.
_NO_CLASSES = {IMAGES_FOLDER, "test", "unknown", "unlabelled", "unlabeled", "all"}
KAGGLE_ILSVRC = "ILSVRC/Data/CLS-LOC"
_KAGGLE_VAL = "LOC_val_solution.csv"
_KAGGLE_CLASSES = "LOC_synset_mapping.txt"
# How far below the root the folder that was meant is looked for, for example root/archive/data/train.
_DEEPEST = 3
# Folders with these names hold parts of a dataset, and are no classes.
_PARTS = {"images", "image", "imgs", "img", "photos", "data", "annotations", "labels", "masks"}
_TABLES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".tar": "webdataset"}


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
        _require_class_folders(tree, folders)
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
        left_out=() if is_kaggle else _other_folders(tree, settings.on_bad, train if is_flat else folders.values()),
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


def _images_in(tree: Tree, folder: str, class_name: str, split: str, inner: str = "") -> list[ImageFile]:
    """Lists a folder of images, and the folder `inner` in it; raises DataError for another, which would be lost."""
    entries = tree.entries(folder)
    files = _files(class_name, entries, split)
    for entry in entries:
        if entry.is_folder and entry.name == inner:
            files += _images_in(tree, entry.path, class_name, split)
        elif entry.is_folder:
            at = tree.describe(entry.path)
            raise DataError(f"{at}: a folder inside a folder of images: move its images up to {tree.describe(folder)}")
    return files


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
    files = _images_in(tree, folder.path, folder.name, split, IMAGES_FOLDER)
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
    lines = [tuple(line.split("\t")) for line in read_text(tree, path).splitlines() if line.strip()]
    for number, fields in enumerate(lines, start=1):
        if len(fields) < 2:
            raise DataError(f"{tree.describe(path)}: entry {number} has no class: write the file, a tab and the class")
    names, classes = ([fields[place].strip() for fields in lines] for place in (0, 1))
    table = Table(path, tree.describe(path), (), tuple(enumerate(lines, start=1)))
    return _Annotations(values_by_id(table, names, classes), lambda name: name.name, path)


def _kaggle_annotations(tree: Tree) -> _Annotations:
    """Reads the classes of val's images (`ImageId,PredictionString`: a stem, then class and box of each object)."""
    table = read_table(tree, _KAGGLE_VAL)
    classes = [next(iter(cells[-1].split()), "") for _, cells in table.lines]
    return _Annotations(values_by_id(table, table.column(0), classes), lambda name: name.stem, _KAGGLE_VAL)


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
    path, class_of, entries = annotations.path, dict(annotations.class_of), tree.entries(split)
    inside = [entry for entry in entries if entry.is_folder and entry.path != images]
    sorted_in = [file for entry in inside for file in _class_files(tree, split, entry)]
    if not sorted_in and tree.find(images) is None:
        name = path.rpartition("/")[2]
        raise DataError(f"{tree.describe(images)}: no such folder, but {name} lists its images: add it")
    flat = _files(NO_CLASS, entries, split)
    flat += _images_in(tree, images, NO_CLASS, split) if images != split and tree.find(images) is not None else []
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
        raise DataError(f"{tree.describe(path)}: lists {min(class_of)}, not in {tree.describe(images)}: restore it")
    return grouped(known)


def _test(tree: Tree, folder: str, train: Mapping[str, object]) -> dict[str, list[ImageFile]]:
    """Lists test, which is flat and unlabelled or has class folders."""
    entries = tree.entries(folder)
    folders = {entry.name for entry in entries if entry.is_folder}
    flat = _files(NO_CLASS, entries, folder)
    if len(folders) == 1 and folders <= _NO_CLASSES and not folders & train.keys():
        flat += _images_in(tree, f"{folder}/{folders.pop()}", NO_CLASS, folder)
    if folders:
        return _class_folders(tree, folder)
    if not flat:
        raise DataError(f"{tree.describe(folder)}: no images: add some, or remove {folder}/")
    return {NO_CLASS: flat}


def _require_class_folders(tree: Tree, folders: Mapping[str, str]) -> None:
    """Checks that the folders of a root without train/ are classes; `folders` are its other splits.

    Raises:
        DataError: they are not; the line says which folder or setting was probably meant.
    """
    where, entries = tree.describe(""), tree.entries("")
    inside = [entry.name for entry in entries if entry.is_folder]
    meant = None if folders else _meant(tree, "", _DEEPEST)
    if meant is not None:
        raise DataError(
            f"{where}: no train/ inside, but {meant}/ holds splits or class folders: set "
            f"datasets.<name>.root={tree.describe(meant)}"
        )
    for entry in entries:
        kind = _TABLES.get(PurePosixPath(entry.name).suffix.lower())
        if kind is not None and any(word in entry.name.lower() for word in ("train", "label")):
            raise DataError(
                f"{where}: no train/ inside, but {entry.name}: set datasets.<name>.source={kind}, or put images in "
                "train/<class>/"
            )
    odd = [name for name in inside if split_word(name.replace(" ", "_")) or name.lower() in _PARTS]
    if odd or not inside:
        found = f", and {some(odd)} may be a split or a class" if odd else ""
        raise DataError(f"{where}: no train/ inside{found}: put images in train/<class>/, or correct the root")


def _other_folders(tree: Tree, on_bad: OnBad, splits: Collection[str]) -> tuple[LeftOut, ...]:
    """Returns what a root has beside its splits: single images, and with `on_bad=skip` also folders of images.

    Raises:
        DataError: there is a folder of images; it may be a split under a name that is not understood.
    """
    left_out = []
    for entry in tree.entries(""):
        if is_named_as_image(entry):
            left_out.append(LeftOut("every split", entry.path, "in no split and no class"))
        elif entry.is_folder and entry.path not in splits:
            images = [each for each in walk(tree, entry.path) if is_named_as_image(each)]
            if images and on_bad is OnBad.stop:
                raise DataError(
                    f"{tree.describe(entry.path)}: holds images ({images[0].name}), but is not named like a split: "
                    "rename it to train, val or test, move it away, or set datasets.<name>.on_bad=skip to leave it out"
                )
            if images:
                left_out.append(LeftOut("every split", f"{entry.path}/", f"holds {len(images):,} images, in no split"))
    return tuple(left_out)


def _meant(tree: Tree, folder: str, depth: int) -> str | None:
    """Returns the only folder below `folder` that has a train folder, or two folders with images directly inside."""
    inside = [entry.path for entry in tree.entries(folder) if entry.is_folder] if depth else []
    found: list[str] = []
    for path, entries in zip(inside, map_in_order(tree.entries, inside, tree.num_readers), strict=True):
        below = [each.path for each in entries if each.is_folder]
        # Images directly inside make it a class, whatever else it has.
        if below and not any(map(is_named_as_image, entries)):
            classes = (each for each in below if any(map(is_named_as_image, tree.entries(each))))
            is_root = "train" in split_folders(tree, path) or (next(classes, None) and next(classes, None))
            found += [path] if is_root else filter(None, [_meant(tree, path, depth - 1)])
    # Any of several would leave out the others' images.
    return found[0] if len(found) == 1 else None
