"""The settings of one dataset, as plain frozen values; part of the same schema as the training settings."""

import re
from dataclasses import dataclass, fields
from enum import StrEnum

from workers.settings.checks import require, require_least

SPLITS = ("train", "dev", "val", "test")
# What nobody trains on, and what members predict.
HELD_OUT = SPLITS[1:]


class Source(StrEnum):
    """Where a dataset's images come from."""

    digits = "digits"
    folder = "folder"
    csv = "csv"
    webdataset = "webdataset"
    parquet = "parquet"
    torchvision = "torchvision"
    ilsvrc = "ilsvrc"


# Sources whose images lie below a root, each as its files have them.
FILE_SOURCES = frozenset({Source.folder, Source.csv, Source.webdataset, Source.parquet, Source.ilsvrc})


class OnBad(StrEnum):
    """What preparation does with a training image that cannot be read."""

    stop = "stop"
    skip = "skip"


_SPLIT_BY_FILES = frozenset({Source.csv, Source.webdataset, Source.parquet})
# A setting that its source would not look at is a mistake, and told.
_READ_BY = {
    **dict.fromkeys(("train", "val", "test"), _SPLIT_BY_FILES),
    "images": frozenset({Source.csv}),
    **dict.fromkeys(("id_column", "label_column"), frozenset({Source.csv, Source.parquet})),
    "image_column": frozenset({Source.parquet}),
    "class_names": frozenset({Source.webdataset, Source.parquet}),
}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*://")
# A secret may hold slashes, and an address another one; a port is no secret. A query signs.
_CREDENTIALS = re.compile(r"://[^/@:]*:(?!\d+(?:/|$))[^@]*@|\?\S*=")


def is_url(root: str) -> bool:
    """Whether a root lies in an object store (`s3://bucket/folder`), and not in a folder of this machine."""
    return _URL.match(root) is not None


class StoreFormat(StrEnum):
    """How prepared pixels are kept: as they are (197 KB an image at 256 pixels), or as JPEG again, a fraction of it."""

    raw = "raw"
    jpeg = "jpeg"


@dataclass(frozen=True)
class DatasetSettings:
    """One entry of `datasets`.

    `declared_*` are the published counts of a dataset, used by `septet plan` where the images are absent.
    `name` is that of one of torchvision's sets, which is downloaded to `root` where `download` allows it.
    `store_format` says how the prepared pixels are kept, `jpeg_quality` how well where that is as JPEG.
    `orientations` is 4 to make each (class, quarter turn) a class of its own (the digits' superset), else 1.

    What follows is None for what the source finds by itself. `train`, `val` and `test` say which files below the root
    hold a split: a csv file, or a pattern of shards with `*` and `{000..146}`. `images` is csv's folder of images, with
    `{split}` where it has one for each. Columns are those of csv or parquet. `class_names` is a file with the name of
    class 0, 1, … a line, for labels that are numbers.
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
    train: str | None = None
    val: str | None = None
    test: str | None = None
    images: str | None = None
    id_column: str | None = None
    label_column: str | None = None
    image_column: str | None = None
    class_names: str | None = None
    store_format: StoreFormat = StoreFormat.raw
    jpeg_quality: int = 90

    def __post_init__(self) -> None:
        require(1 <= self.size <= 4096, f"size={self.size}: give pixels in 1…4096")
        require(0 < self.val_fraction < 1, f"val_fraction={self.val_fraction}: give a share in (0, 1)")
        require(0 <= self.dev_fraction < 1, f"dev_fraction={self.dev_fraction}: give a share in [0, 1)")
        require(self.orientations in (1, 4), f"orientations={self.orientations}: give 1 or 4")
        require(
            not (is_url(self.root or "") and _CREDENTIALS.search(self.root or "")),
            "root: holds a password or a signature, which would be kept in config.yaml: give it in the environment",
        )
        for name, sources in _READ_BY.items():
            value = getattr(self, name)
            readers = " or ".join(sorted(sources))
            require(
                value is None or self.source in sources,
                f"{name}={value}: only source={readers} reads it, not {self.source}",
            )
        require(1 <= self.jpeg_quality <= 100, f"jpeg_quality={self.jpeg_quality}: give 1…100")
        require_least(self, 0, "declared_classes", "declared_train", "declared_val", "declared_test")


# Photographs at quality 90 and 256 pixels took 0.34; a better quality takes up to three times that.
_JPEG_BYTES_A_PIXEL = 0.45
_FINE_JPEG_BYTES_A_PIXEL = 1.5
_FINE_QUALITY = 90


def stored_image_bytes(size: int, store_format: StoreFormat, jpeg_quality: int) -> int:
    """Bytes that a prepared image of `size` × `size` pixels takes; as JPEG about, and rather too many."""
    if store_format is StoreFormat.raw:
        return 3 * size * size
    a_pixel = _JPEG_BYTES_A_PIXEL if jpeg_quality <= _FINE_QUALITY else _FINE_JPEG_BYTES_A_PIXEL
    return round(a_pixel * size * size)


# Where images lie and what is published of them. Of `classes` it is not the file's place that counts but the names.
_NO_OPTIONS = frozenset(
    {
        *("root", "download", "classes", "class_names"),
        *("declared_classes", "declared_train", "declared_val", "declared_test"),
    }
)
# They shape pixels only where these are JPEG: a raw store has one key whatever they say.
_JPEG_OPTIONS = frozenset({"store_format", "jpeg_quality"})


def dataset_options(settings: DatasetSettings) -> dict[str, str | int | float]:
    """The settings that shape a dataset besides its files and classes, in the order of the fields.

    They enter both the key of its store and the hash of a plan: whatever is added here changes both. What only some
    sources read (`_READ_BY`) is there only where it is given, so that the others' hashes never change.
    """
    unused = _NO_OPTIONS if settings.store_format is StoreFormat.jpeg else _NO_OPTIONS | _JPEG_OPTIONS
    values = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name not in unused}
    values = {name: value for name, value in values.items() if name not in _READ_BY or value is not None}
    return {name: value.value if isinstance(value, StrEnum) else value for name, value in values.items()}
