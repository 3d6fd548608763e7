"""Small data sets that torchvision downloads by name, each with its own test split."""

import difflib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from workers.data.decode import centre_square
from workers.data.held_out import hold_out
from workers.data.listing import LeftOut, Picture, Row, Rows, by_name
from workers.errors import DataError
from workers.settings import DatasetSettings

NAMES = ("CIFAR10", "CIFAR100", "FashionMNIST", "MNIST")
_PARTS = ("train", "test")


@dataclass(frozen=True)
class _Part:
    """One part in memory: `images` [N, height, width] or [N, height, width, 3] uint8, `targets` [N] int64."""

    images: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class TorchvisionListing:
    """A torchvision data set; a label is torchvision's own, and classes are in its order."""

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

    def rows(self, progress: Callable[[int, int], None]) -> Rows:
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
        ]

    def load(self, row: Row, size: int) -> Picture:
        part, _, index = row.path.partition("/")
        image = self.parts[part].images[int(index)]
        pixels = np.asarray(centre_square(Image.fromarray(image), size))
        return Picture(pixels, image.shape[1], image.shape[0])


def list_torchvision(settings: DatasetSettings) -> TorchvisionListing:
    """Reads the data set `settings.name` from `settings.root`, and downloads it there first where it is absent.

    Raises:
        DataError: no name or root, an unknown name, or files that are absent, damaged or cannot be had.
    """
    if settings.name not in NAMES:
        close = difflib.get_close_matches(str(settings.name), NAMES, n=1)
        asked = f"did you mean {close[0]}? " if close else ""
        raise DataError(f"datasets.<name>.name={settings.name}: {asked}(known: {', '.join(NAMES)})")
    if settings.root is None:
        raise DataError("datasets.<name>.root: missing; give the folder that holds the data set, or is to hold it")
    loaded = {part: _load(settings, part == "train") for part in _PARTS}
    classes = tuple(str(name) for name in loaded["train"].classes)
    parts = {
        part: _Part(np.asarray(held.data, dtype=np.uint8), np.asarray(held.targets, dtype=np.int64))
        for part, held in loaded.items()
    }
    return TorchvisionListing(parts, classes, settings.val_fraction, settings.dev_fraction)


def _load(settings: DatasetSettings, is_train: bool) -> Any:
    from torchvision import datasets

    assert settings.root is not None
    root = Path(settings.root).expanduser()
    try:
        held = getattr(datasets, str(settings.name))(root, train=is_train, download=settings.download)
        if len(held.data) != len(held.targets):
            raise ValueError(f"{len(held.data)} images, {len(held.targets)} labels")
        return held
    # What torchvision says of absent files and of a network that is not there, and MNIST's reader of damaged files:
    # of those that are unpacked it checks no sums.
    except (RuntimeError, OSError, ValueError, TypeError, AssertionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        what = "cannot be downloaded" if settings.download else "is not there, or damaged"
        raise DataError(
            f"{root}: {settings.name} {what} ({reason}); put its files there, or allow datasets.<name>.download"
        ) from error
