"""torchvision's sets of image files: listed by path, decoded one at a time when they are packed."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.data.files import FileListing, ImageFile
from workers.data.folder import LocalFiles, version_of, wanted_classes
from workers.data.torchvision_catalogue import Kept, KnownSet
from workers.data.torchvision_parts import read_part
from workers.errors import DataError
from workers.settings import DatasetSettings


@dataclass(frozen=True)
class FilesOfPart:
    """The images of a part: path and class of each, "" where it is not published; and all classes, in label order."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    class_names: tuple[str, ...]


def list_files(settings: DatasetSettings, known: KnownSet) -> FileListing:
    """Lists the set that `settings` name.

    Raises:
        DataError: files that are absent, damaged or cannot be had; parts that name different classes.
    """
    assert settings.root is not None
    root = Path(settings.root).expanduser()
    parts = {split: read_part(settings, known, split, files_of) for split in known.parts}
    classes = parts["train"].classes
    for split, part in parts.items():
        if part.classes != classes:
            raise DataError(f"{root}: {settings.name}: {split} has other classes than train; fetch it again")
    wanted = set(classes)
    if settings.classes is not None:
        wanted = set(wanted_classes(settings.classes, wanted, f"is none of {settings.name}'s"))
    files = {split: _image_files(root, part) for split, part in parts.items()}
    test = files.get("test", [])
    held_out = [*files.get("val", []), *test]
    return FileListing(
        contents=LocalFiles(root),
        classes=tuple(name for name in classes if name in wanted),
        train=_of(files["train"], wanted),
        val=_of(files["val"], wanted) if "val" in files else None,
        test=_of(test, wanted | {""}),
        other_held_out=_of(held_out, set(classes) - wanted),
        labelled_test=bool(test) and all(file.class_name for file in test),
        val_fraction=settings.val_fraction,
        dev_fraction=settings.dev_fraction,
    )


def files_of(known: KnownSet, held: Any) -> FilesOfPart:
    """Paths and labels of torchvision's object `held`; raises what `read_part` turns into an error."""
    classes = tuple(str(name) for name in getattr(held, known.class_names))
    if known.kept is Kept.files:
        pairs = [held[index] for index in range(len(held))]
    else:
        pairs = list(zip(held._images, held._labels, strict=True))
    if not pairs:
        raise ValueError("no images")
    if not Path(pairs[0][0]).exists():
        raise FileNotFoundError(f"{pairs[0][0]} is not there")
    labels = [None if label is None else int(label) for _, label in pairs]
    for label in labels:
        if label is not None and not 0 <= label < len(classes):
            raise ValueError(f"label {label} of {len(classes)} classes")
    names = tuple("" if label is None else classes[label] for label in labels)
    return FilesOfPart(classes, tuple(str(path) for path, _ in pairs), names)


def _image_files(root: Path, part: FilesOfPart) -> list[ImageFile]:
    files = []
    for path, class_name in zip(part.paths, part.class_names, strict=True):
        below = os.path.relpath(path, root)
        files.append(ImageFile(below, below, class_name, version_of(Path(path))))
    return files


def _of(files: list[ImageFile], names: set[str]) -> tuple[ImageFile, ...]:
    return tuple(file for file in files if file.class_name in names)
