"""The supported datasets of torchvision: their names, the arguments of their splits, and their labels."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from workers.errors import DataError

Arguments = Mapping[str, Any]


# The place of a dataset's images in torchvision: all in memory, or each in a file, read when needed. Most of the latter
# take a `loader`, which gets a path. `lists` have only lists of paths and labels.
Kept = StrEnum("Kept", "memory files lists")


@dataclass(frozen=True)
class KnownSet:
    """One of torchvision's datasets.

    Attributes:
        factory: the class in `torchvision.datasets`.
        parts: the arguments for each published split.
        kept: the place of its images.
        labels: the attribute with the labels of a dataset in memory.
        first_label: the label of the first class.
        classes: the class names, if torchvision has none.
        class_names: the attribute with the class names.
        listed: the attributes with paths and labels for `lists`: two, or one with pairs.
        pixmaps: its files are PPM, which other sources do not support.
    """

    factory: str
    parts: Mapping[str, Arguments]
    kept: Kept
    labels: str = "targets"
    first_label: int = 0
    classes: tuple[str, ...] = ()
    class_names: str = "classes"
    listed: tuple[str, ...] = ()
    pixmaps: bool = False


_DIGITS = tuple("0123456789")
_TRAIN_AND_TEST = {"train": {"train": True}, "test": {"train": False}}
_TWO = {split: {"split": split} for split in ("train", "test")}
_THREE = {split: {"split": split} for split in ("train", "val", "test")}


def _emnist(split: str) -> KnownSet:
    # The labels of letters start at 1; torchvision's class 0 has no images.
    parts = {name: {**arguments, "split": split} for name, arguments in _TRAIN_AND_TEST.items()}
    return KnownSet("EMNIST", parts, Kept.memory, first_label=int(split == "letters"))


def _imagenette(size: str) -> KnownSet:
    parts = {split: {"split": split, "size": size} for split in ("train", "val")}
    # Its classes are tuples of synonyms; other ImageNet datasets use WNIDs.
    return KnownSet("Imagenette", parts, Kept.files, class_names="wnids")


def _places(*, small: bool) -> KnownSet:
    parts = {split: {"split": split, "small": small} for split in ("val", "test")}
    return KnownSet("Places365", {"train": {"split": "train-standard", "small": small}, **parts}, Kept.files)


SETS: Mapping[str, KnownSet] = {
    **{name: KnownSet(name, _TRAIN_AND_TEST, Kept.memory) for name in ("CIFAR10", "CIFAR100")},
    **{name: KnownSet(name, _TRAIN_AND_TEST, Kept.memory) for name in ("MNIST", "FashionMNIST", "KMNIST")},
    **{f"EMNIST/{split}": _emnist(split) for split in ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")},
    "USPS": KnownSet("USPS", _TRAIN_AND_TEST, Kept.memory, classes=_DIGITS),
    "SVHN": KnownSet("SVHN", _TWO, Kept.memory, labels="labels", classes=_DIGITS),
    "STL10": KnownSet("STL10", _TWO, Kept.memory, labels="labels"),
    **{name: KnownSet(name, _THREE, Kept.files) for name in ("DTD", "Flowers102", "FGVCAircraft", "RenderedSST2")},
    **{name: KnownSet(name, _TWO, Kept.files) for name in ("Food101", "StanfordCars")},
    "OxfordIIITPet": KnownSet(
        "OxfordIIITPet",
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
        Kept.lists,
        listed=("_images", "_labels"),
    ),
    "GTSRB": KnownSet(
        "GTSRB",
        _TWO,
        Kept.lists,
        classes=tuple(f"{sign:05d}" for sign in range(43)),
        listed=("_samples",),
        pixmaps=True,
    ),
    "Country211": KnownSet("Country211", {**_TWO, "val": {"split": "valid"}}, Kept.files),
    **{name: KnownSet(name, {"train": {}}, Kept.files) for name in ("EuroSAT", "SUN397")},
    "Imagenette": _imagenette("full"),
    **{f"Imagenette/{size}": _imagenette(size) for size in ("320px", "160px")},
    "Places365": _places(small=False),
    "Places365/small": _places(small=True),
}


def known_set(name: object) -> KnownSet:
    """Returns the dataset called `name`; raises DataError with the nearest name if there is none."""
    if name not in SETS:
        close = difflib.get_close_matches(str(name), SETS, n=1)
        asked = f"did you mean {close[0]}? " if close else ""
        raise DataError(f"datasets.<name>.name={name}: {asked}(known: {', '.join(SETS)})")
    return SETS[str(name)]
