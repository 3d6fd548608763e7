"""torchvision's sets of image files: listed by path, decoded one at a time when they are packed."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from workers.data.classes import NO_CLASS, Found, file_listing, grouped
from workers.data.decoding.decoder import BadImage
from workers.data.files import FileListing, ImageFile, PlainFiles
from workers.data.torchvision_catalogue import Kept, KnownSet
from workers.data.torchvision_parts import read_part
from workers.data.tree import LocalTree, one_line
from workers.errors import DataError
from workers.settings.training import SPLITS, DatasetSettings


@dataclass(frozen=True)
class Pixmaps(PlainFiles):
    """PPM files, given as the BMP of the same pixels: so the formats that any source may bring stay few."""

    def read(self, path: str) -> bytes:
        content = super().read(path)
        head = content[:2]
        try:
            with Image.open(io.BytesIO(content), formats=("PPM",)) as image:
                buffer = io.BytesIO()
                image.convert("RGB").save(buffer, "BMP")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = "no portable pixmap" if head != b"P6" else one_line(error)
            raise BadImage(reason) from error
        return buffer.getvalue()


@dataclass(frozen=True)
class FilesOfPart:
    """A part's images: path and class of each, `NO_CLASS` where it is not published; and all classes in label order."""

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
    tree = LocalTree(root)
    files = {split: _by_class(tree, part) for split, part in parts.items()}
    at = {split: f"{root}: {split} of {settings.name}" for split in SPLITS}
    found = Found(
        order=classes,
        train=files["train"],
        val=files.get("val"),
        test=files.get("test", {}),
        train_at=at["train"],
        val_at=at["val"],
        test_at=at["test"],
    )
    return file_listing(settings, Pixmaps(tree) if known.pixmaps else PlainFiles(tree), found)


def files_of(known: KnownSet, held: Any) -> FilesOfPart:
    """Paths and labels of torchvision's object `held`; raises what `read_part` turns into an error."""
    classes = known.classes or tuple(str(name) for name in getattr(held, known.class_names))
    if known.kept is Kept.files:
        pairs = [held[index] for index in range(len(held))]
    else:
        lists = [getattr(held, name) for name in known.listed]
        pairs = list(zip(*lists, strict=True)) if len(lists) > 1 else list(lists[0])
    if not pairs:
        raise ValueError("no images")
    if not Path(pairs[0][0]).exists():
        raise FileNotFoundError(f"{pairs[0][0]} is not there")
    labels = [None if label is None else int(label) for _, label in pairs]
    for label in labels:
        if label is not None and not 0 <= label < len(classes):
            raise ValueError(f"label {label} of {len(classes)} classes")
    names = tuple(NO_CLASS if label is None else classes[label] for label in labels)
    return FilesOfPart(classes, tuple(str(path) for path, _ in pairs), names)


def _by_class(tree: LocalTree, part: FilesOfPart) -> dict[str, list[ImageFile]]:
    pairs = []
    for path, class_name in zip(part.paths, part.class_names, strict=True):
        below = os.path.relpath(path, tree.root)
        entry = tree.find(below)
        pairs.append((class_name, ImageFile(below, below, class_name, entry.version if entry else "missing")))
    return grouped(pairs)
