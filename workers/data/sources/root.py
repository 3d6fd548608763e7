"""Judges folders that a root should not have: none is trained on as a class, or left out, without a word."""

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

from workers.data.sources.files import is_named_as_image
from workers.data.sources.listing import LeftOut
from workers.data.sources.patterns import split_folders, split_word
from workers.data.sources.tree import Tree, walk
from workers.errors import DataError, some
from workers.settings import OnBad
from workers.threads import map_in_order

# How far below the root the folder that was meant is looked for, for example root/archive/data/train.
_DEEPEST = 3
# Folders with these names hold parts of a dataset, and are no classes.
_NO_CLASSES = {"images", "image", "imgs", "img", "photos", "data", "annotations", "labels", "masks"}
_TABLES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".tar": "webdataset"}


def require_class_folders(tree: Tree, folders: Mapping[str, str]) -> None:
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
    odd = [name for name in inside if split_word(name.replace(" ", "_")) or name.lower() in _NO_CLASSES]
    if odd or not inside:
        found = f", and {some(odd)} may be a split or a class" if odd else ""
        raise DataError(f"{where}: no train/ inside{found}: put images in train/<class>/, or correct the root")


def other_folders(tree: Tree, on_bad: OnBad, splits: Collection[str]) -> tuple[LeftOut, ...]:
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
