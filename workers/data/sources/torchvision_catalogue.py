"""Which of torchvision's data sets are known by name, how their parts are asked for, and how labels are counted."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from workers.errors import DataError

Arguments = Mapping[str, Any]


class Kept(StrEnum):
    """Where torchvision keeps a set's images: all in memory, or each in a file of its own, read when it is needed.

    Of the latter most take a `loader`, which is given a path; `lists` are those that only keep paths and labels.
    """

    memory = "memory"
    files = "files"
    lists = "lists"


@dataclass(frozen=True)
class KnownSet:
    """One of torchvision's sets.

    Attributes:
        factory: the class in `torchvision.datasets`.
        parts: what each split is asked for with; a split that is absent is not published.
        kept: where its images are.
        labels: the attribute that holds the labels of a set in memory.
        first_label: what the first class is counted as.
        classes: their names, where torchvision has none.
        class_names: the attribute that names them.
        listed: where the paths and labels of a set of `lists` are: two attributes, or one of pairs.
        pixmaps: its files are PPM, which is none of the formats that are read otherwise.
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


def _with(parts: Mapping[str, Arguments], **more: Any) -> dict[str, Arguments]:
    return {split: {**arguments, **more} for split, arguments in parts.items()}


def _emnist(split: str) -> KnownSet:
    # The letters are counted from 1, and torchvision names a class 0 that has no images.
    return KnownSet("EMNIST", _with(_TRAIN_AND_TEST, split=split), Kept.memory, first_label=int(split == "letters"))


def _imagenette(size: str) -> KnownSet:
    parts = {split: {"split": split, "size": size} for split in ("train", "val")}
    # Its classes are tuples of synonyms; WNIDs are the names that ImageNet's other sets go by.
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
    """The set of that name; raises DataError with the nearest one where there is none."""
    if name not in SETS:
        close = difflib.get_close_matches(str(name), SETS, n=1)
        asked = f"did you mean {close[0]}? " if close else ""
        raise DataError(f"datasets.<name>.name={name}: {asked}(known: {', '.join(SETS)})")
    return SETS[str(name)]
