"""The settings of one dataset, as plain frozen values; as light as `workers.settings`, and part of the same schema."""

from dataclasses import dataclass, fields
from enum import StrEnum

from workers.setting_checks import require, require_least

SPLITS = ("train", "dev", "val", "test")
# What nobody trains on, and what members predict.
HELD_OUT = SPLITS[1:]


class Source(StrEnum):
    """Where a dataset's images come from."""

    digits = "digits"
    folder = "folder"
    torchvision = "torchvision"


class OnBad(StrEnum):
    """What preparation does with a training image that cannot be read."""

    stop = "stop"
    skip = "skip"


@dataclass(frozen=True)
class DatasetSettings:
    """One entry of `datasets`.

    `declared_*` are the published counts of a dataset, used by `septet plan` where the images are absent.
    `name` is that of one of torchvision's sets, which is downloaded to `root` where `download` allows it.
    `orientations` is 4 to make each (class, quarter turn) a class of its own (the digits' superset), else 1.
    """

    source: Source = Source.folder
    root: str | None = None
    classes: str | None = None
    size: int = 256
    val_fraction: float = 0.1
    dev_fraction: float = 0.1
    on_bad: OnBad = OnBad.stop
    orientations: int = 1
    declared_classes: int = 0
    declared_train: int = 0
    declared_val: int = 0
    declared_test: int = 0
    name: str | None = None
    download: bool = True

    def __post_init__(self) -> None:
        require(1 <= self.size <= 4096, f"size={self.size}: give pixels in 1…4096")
        require(0 < self.val_fraction < 1, f"val_fraction={self.val_fraction}: give a share in (0, 1)")
        require(0 <= self.dev_fraction < 1, f"dev_fraction={self.dev_fraction}: give a share in [0, 1)")
        require(self.orientations in (1, 4), f"orientations={self.orientations}: give 1 or 4")
        require_least(self, 0, "declared_classes", "declared_train", "declared_val", "declared_test")


# Where images lie and what is published of them. Of `classes` it is not the file's place that counts but the names.
_NO_OPTIONS = frozenset(
    {"root", "download", "classes", "declared_classes", "declared_train", "declared_val", "declared_test"}
)


def dataset_options(settings: DatasetSettings) -> dict[str, str | int | float]:
    """The settings that shape a dataset besides its files and classes, in the order of the fields.

    They enter both the key of its store and the hash of a plan: whatever is added here changes both.
    """
    values = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name not in _NO_OPTIONS}
    return {name: value.value if isinstance(value, StrEnum) else value for name, value in values.items()}
