"""Data sets that torchvision knows by name and downloads, with the splits that they were published with."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from workers.data.classes import kept_classes
from workers.data.decoding.decoder import centre_square
from workers.data.held_out import hold_out
from workers.data.kept_contents import UNKEPT, KeptContents
from workers.data.listing import UNLABELLED, LeftOut, Listing, Loader, Picture, Row, Rows, by_name
from workers.data.torchvision_catalogue import Kept, KnownSet, known_set
from workers.data.torchvision_files import list_files
from workers.data.torchvision_parts import read_part
from workers.errors import DataError
from workers.settings.training import DatasetSettings


@dataclass(frozen=True)
class _Part:
    """One part in memory: `images` [N, height, width] or [N, height, width, 3] uint8, `targets` [N] int64.

    The target of a class that is left out is `UNLABELLED`.
    """

    images: np.ndarray
    targets: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _PartsLoader:
    parts: dict[str, _Part]

    def load(self, row: Row, size: int) -> Picture:
        part, _, index = row.path.partition("/")
        image = self.parts[part].images[int(index)]
        pixels = centre_square(Image.fromarray(image), size)
        return Picture(pixels, image.shape[1], image.shape[0])


@dataclass(frozen=True)
class TorchvisionListing:
    """A set that torchvision holds in memory; classes are in its order."""

    parts: dict[str, _Part]
    classes: tuple[str, ...]
    val_fraction: float
    dev_fraction: float

    labelled_test = True
    class_ids: ClassVar[tuple[str, ...]] = ()

    def counts(self) -> dict[str, int]:
        return {split: len(rows) for split, rows in self._rows.splits.items()}

    def fingerprint(self) -> str:
        """Of the images themselves, which are in memory."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for part in self.parts.values():
            digest.update(part.images.tobytes())
            digest.update(part.targets.tobytes())
        return digest.hexdigest()

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
            split = "val" if row.content in held_out.val else "dev" if row.content in held_out.dev else "train"
            splits[split].append(row)
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


def list_torchvision(settings: DatasetSettings) -> Listing:
    """Reads the set `settings.name` from `settings.root`, and downloads it there first where it is absent.

    Images that lie in files of their own are listed only.

    Raises:
        DataError: no name or root, an unknown name, or files that are absent, damaged or cannot be had.
    """
    known = known_set(settings.name)
    if settings.root is None:
        raise DataError("datasets.<name>.root: missing; give the folder that holds the data set, or is to hold it")
    if known.kept is not Kept.memory:
        return list_files(settings, known)
    parts = {split: read_part(settings, known, split, _in_memory) for split in known.parts}
    classes = parts["train"].classes
    wanted = kept_classes(settings, classes, f"train of {settings.name}")
    parts = {split: _only(part, wanted) for split, part in parts.items()}
    kept = tuple(name for name in classes if name in wanted)
    return TorchvisionListing(parts, kept, settings.val_fraction, settings.dev_fraction)


def _only(part: _Part, wanted: set[str]) -> _Part:
    """The part with labels counted among the wanted classes alone; images keep their places."""
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
