"""Datasets that torchvision knows by name and downloads, with their published splits.

torchvision holds some of them in memory. Of the others, which have a file for each image, it gives paths and labels.
"""

import hashlib
import http.client
import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from PIL import Image

from workers.data.decoding import RULES, BadImage, Picture, Rules, kept_pixels
from workers.data.held_out import hold_out
from workers.data.sources.classes import NO_CLASS, file_listing, found_at, grouped, kept_classes
from workers.data.sources.files import FileListing, ImageFile, PlainFiles
from workers.data.sources.listing import UNKEPT, UNLABELLED, KeptContents, LeftOut, Listing, Loader, Row, Rows, by_name
from workers.data.sources.torchvision_catalogue import Kept, KnownSet, known_set
from workers.data.sources.tree import LocalTree, one_line
from workers.errors import DataError
from workers.settings import DatasetSettings
from workers.storage import expanded

Part = TypeVar("Part")

# Errors for absent files, for a missing network, and of readers of damaged files: torchvision checks few checksums.
_ABSENT_OR_DAMAGED = (
    *(RuntimeError, OSError, ValueError, TypeError, AssertionError, AttributeError, LookupError, EOFError),
    *(http.client.HTTPException, pickle.UnpicklingError, struct.error, tarfile.TarError),
    *(zipfile.BadZipFile, zlib.error),
)


def list_torchvision(settings: DatasetSettings) -> Listing:
    """Reads the dataset `settings.name` from `settings.root`, and downloads it first if it is absent.

    Images in files of their own are only listed.

    Raises:
        DataError: there is no root, the name is unknown, or files are absent, damaged or cannot be downloaded.
    """
    known = known_set(settings.name)
    if settings.root is None:
        raise DataError("datasets.<name>.root: missing; give the folder of the dataset, or one to download it to")
    return _list_memory(settings, known) if known.kept is Kept.memory else _list_files(settings, known)


def _root(settings: DatasetSettings) -> Path:
    assert settings.root is not None
    return expanded(settings.root)


def _read_part(settings: DatasetSettings, known: KnownSet, split: str, take: Callable[[KnownSet, Any], Part]) -> Part:
    """Applies `take` to torchvision's object for a split; downloads it first if it is absent and that is allowed."""
    from scipy.io.matlab import MatReadError
    from torchvision import datasets

    root = _root(settings)
    arguments: dict[str, Any] = dict(known.parts[split])
    if known.kept is Kept.files:
        # Then the set returns an image's path and decodes nothing.
        arguments["loader"] = str

    failure: Exception | None = None
    # At first without a download, because some sets fail or download again if the files exist.
    for download in (False, True) if settings.download else (False,):
        try:
            return take(known, getattr(datasets, known.factory)(root, download=download, **arguments))
        except (*_ABSENT_OR_DAMAGED, MatReadError) as error:
            failure = error
    reason = " ".join(str(failure).split()) or type(failure).__name__
    what = "cannot be downloaded" if settings.download else "is missing or damaged"
    raise DataError(
        f"{root}: {settings.name} {what} ({reason}); put its files there, or set datasets.<name>.download=true"
    ) from failure


def _list_memory(settings: DatasetSettings, known: KnownSet) -> "TorchvisionListing":
    parts = {split: _read_part(settings, known, split, _in_memory) for split in known.parts}
    classes = parts["train"].classes
    wanted = kept_classes(settings, classes, f"train of {settings.name}")
    parts = {split: _only(part, wanted) for split, part in parts.items()}
    kept = tuple(name for name in classes if name in wanted)
    return TorchvisionListing(parts, kept, settings.val_fraction, settings.dev_fraction)


@dataclass(frozen=True)
class _Part:
    """A split in memory: `images` [N, height, width] or [N, height, width, 3] uint8, `targets` [N] int64.

    The target of classes that are left out is `UNLABELLED`.
    """

    images: np.ndarray
    targets: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _PartsLoader:
    parts: dict[str, _Part]

    def load(self, row: Row, size: int, rules: Rules = RULES) -> Picture:
        part, _, index = row.path.partition("/")
        image = self.parts[part].images[int(index)]
        pixels = kept_pixels(Image.fromarray(image), size, rules.keep)
        return Picture(pixels, image.shape[1], image.shape[0])


@dataclass(frozen=True)
class TorchvisionListing:
    """A dataset that torchvision holds in memory; classes are in its order."""

    parts: dict[str, _Part]
    classes: tuple[str, ...]
    val_fraction: float
    dev_fraction: float

    labelled_test = True
    class_ids: ClassVar[tuple[str, ...]] = ()

    def counts(self) -> dict[str, int]:
        return {split: len(rows) for split, rows in self._rows.splits.items()}

    def fingerprint(self) -> str:
        """Hashes the images themselves, which are in memory."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for part in self.parts.values():
            digest.update(part.images.tobytes())
            digest.update(part.targets.tobytes())
        return digest.hexdigest()

    def named_classes(self) -> dict[str, dict[str, str]]:
        return self._rows.named_classes(self.classes)

    def rows(self, progress: Callable[[int, int], None], kept: KeptContents = UNKEPT) -> Rows:
        del kept
        total = sum(len(part.targets) for part in self.parts.values())
        found = self._rows
        progress(total, total)
        return found

    @cached_property
    def _rows(self) -> Rows:
        test, train = self._all("test"), self._all("train")
        tested = {row.content for row in test}
        copies = [row for row in train if row.content in tested]
        train = [row for row in train if row.content not in tested]
        of_class: list[list[bytes]] = [[] for _ in self.classes]
        for row in train:
            of_class[row.label].append(row.content)
        held_out = hold_out(of_class, self.val_fraction, self.dev_fraction)
        splits: dict[str, list[Row]] = {"train": [], "dev": [], "val": []}
        for row in train:
            splits[held_out.split_of(row.content)].append(row)
        left_out = tuple(LeftOut("train", row.path, "the same image as one of test") for row in copies)
        return Rows({split: by_name(rows) for split, rows in {**splits, "test": test}.items()}, left_out)

    def _all(self, part: str) -> list[Row]:
        held = self.parts[part]
        return [
            Row(f"{part}-{index:06d}", f"{part}/{index}", int(target), hashlib.sha256(image.tobytes()).digest())
            for index, (image, target) in enumerate(zip(held.images, held.targets, strict=True))
            if target != UNLABELLED
        ]

    def loader(self) -> Loader:
        return _PartsLoader(self.parts)


def _only(part: _Part, wanted: set[str]) -> _Part:
    """Returns the part with labels that count only the wanted classes; images keep their indices."""
    kept = [label for label, name in enumerate(part.classes) if name in wanted]
    label_of = np.full(len(part.classes), UNLABELLED, np.int64)
    label_of[kept] = np.arange(len(kept))
    return replace(part, targets=label_of[part.targets])


def _in_memory(known: KnownSet, held: Any) -> _Part:
    images = np.asarray(held.data, dtype=np.uint8)
    if images.ndim == 4 and images.shape[1] == 3:
        images = images.transpose(0, 2, 3, 1)
    targets = np.asarray(getattr(held, known.labels), dtype=np.int64) - known.first_label
    classes = known.classes or tuple(str(name) for name in held.classes[known.first_label :])
    if len(images) != len(targets):
        raise ValueError(f"{len(images)} images, {len(targets)} labels")
    if len(targets) and not 0 <= targets.min() <= targets.max() < len(classes):
        raise ValueError(f"labels {targets.min()}…{targets.max()} of {len(classes)} classes")
    return _Part(images, targets, classes)


def _list_files(settings: DatasetSettings, known: KnownSet) -> FileListing:
    root = _root(settings)
    parts = {split: _read_part(settings, known, split, _files_of) for split in known.parts}
    classes = parts["train"].classes
    for split, part in parts.items():
        if part.classes != classes:
            raise DataError(f"{root}: {settings.name}: {split} has other classes than train; fetch it again")
    tree = LocalTree(root)
    files = {split: grouped(_image_files(tree, part)) for split, part in parts.items()}
    contents = _Pixmaps(tree) if known.pixmaps else PlainFiles(tree)
    return file_listing(settings, contents, found_at(f"{root}: {settings.name}", classes, files))


@dataclass(frozen=True)
class _FilesOfPart:
    """A split's images: path and class of each, `NO_CLASS` if it is not published; and all classes in label order."""

    classes: tuple[str, ...]
    images: tuple[tuple[str, str], ...]


def _files_of(known: KnownSet, held: Any) -> _FilesOfPart:
    """Returns paths and labels of torchvision's object `held`; `_read_part` turns its errors into DataError."""
    classes = known.classes or tuple(str(name) for name in getattr(held, known.class_names))
    if known.kept is Kept.files:
        pairs = [held[index] for index in range(len(held))]
    else:
        lists = [getattr(held, name) for name in known.listed]
        pairs = list(zip(*lists, strict=True)) if len(lists) > 1 else list(lists[0])
    if not pairs:
        raise ValueError("no images")
    if not Path(pairs[0][0]).exists():
        raise FileNotFoundError(f"{pairs[0][0]} is missing")
    images = []
    for path, label in pairs:
        if label is not None and not 0 <= int(label) < len(classes):
            raise ValueError(f"label {int(label)} of {len(classes)} classes")
        images.append((str(path), NO_CLASS if label is None else classes[int(label)]))
    return _FilesOfPart(classes, tuple(images))


def _image_files(tree: LocalTree, part: _FilesOfPart) -> Iterator[ImageFile]:
    for path, class_name in part.images:
        below = os.path.relpath(path, tree.root)
        entry = tree.find(below)
        yield ImageFile(below, below, class_name, entry.version if entry else "missing")


@dataclass(frozen=True)
class _Pixmaps(PlainFiles):
    """Reads PPM files and returns BMPs of the same pixels, so that PPM is not among the formats of other sources."""

    def read(self, path: str) -> bytes:
        content = super().read(path)
        try:
            with Image.open(io.BytesIO(content), formats=("PPM",)) as image:
                buffer = io.BytesIO()
                image.convert("RGB").save(buffer, "BMP")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = "not a portable pixmap" if content[:2] != b"P6" else one_line(error)
            raise BadImage(reason) from error
        return buffer.getvalue()
