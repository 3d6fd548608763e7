"""The settings of one dataset, as frozen values in the same schema as the training settings."""

import re
from dataclasses import dataclass, fields
from enum import StrEnum

from workers.settings.checks import require, require_least

SPLITS = ("train", "dev", "val", "test")
# Members never train on these splits, and predict them.
HELD_OUT = SPLITS[1:]
# The training images, each predicted by the members that it was held out of.
OUT_OF_FOLD = "oof"
# The form in which a dataset's images are supplied.
Source = StrEnum("Source", "digits folder csv webdataset parquet torchvision ilsvrc")
# Sources that read images from files below a root.
FILE_SOURCES = frozenset({Source.folder, Source.csv, Source.webdataset, Source.parquet, Source.ilsvrc})
# The answer of preparation to a training image that cannot be read.
OnBad = StrEnum("OnBad", "stop skip")
# The form of prepared pixels: raw (197 KB an image at 256 pixels), or JPEG, a fraction of that.
StoreFormat = StrEnum("StoreFormat", "raw jpeg")
# The answer to an EXIF orientation: images are turned as viewers show them, or kept as they are stored.
Exif = StrEnum("Exif", "apply ignore")
# What is kept of an image whose shorter side is scaled to `size`: the centre square, or all of it.
Keep = StrEnum("Keep", "centre whole")
# How often a prepared dataset is read whole when it is opened, to find damage.
Verify = StrEnum("Verify", "always changed never")
_SPLIT_BY_FILES = frozenset({Source.csv, Source.webdataset, Source.parquet})
# Photographs of 200 megapixels, the most that phones make, have a little less. In a PNG, they take 1.4 GB of memory.
MAX_PIXELS = 200_000_000
LARGEST_MAX_PIXELS = 1_000_000_000
# A setting that the source would ignore is an error.
_READ_BY = {
    **dict.fromkeys(("train", "val", "test"), _SPLIT_BY_FILES),
    "images": frozenset({Source.csv}),
    **dict.fromkeys(("id_column", "label_column"), frozenset({Source.csv, Source.parquet})),
    "image_column": frozenset({Source.parquet}),
    "class_names": frozenset({Source.webdataset, Source.parquet}),
    **dict.fromkeys(("exif", "max_pixels", "keep"), FILE_SOURCES | {Source.torchvision}),
}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*://")
# A secret may contain slashes, and one address another. A port is no secret. A query may be a signature.
_CREDENTIALS = re.compile(r"://[^/@:]*:(?!\d+(?:/|$))[^@]*@|\?\S*=")


def is_url(root: str) -> bool:
    """Returns whether `root` is in an object store (`s3://bucket/folder`) and not a folder of this machine."""
    return _URL.match(root) is not None


@dataclass(frozen=True)
class Fold:
    """Part `number` of `k` of the target's training images, in the division `repeat`; with `k` 0 none.

    `groups` and `file` are sha256 of what keeps images together, and of folds made elsewhere.
    """

    k: int = 0
    number: int = 0
    repeat: int = 0
    groups: str = ""
    file: str = ""

    @property
    def suffix(self) -> str:
        """The end of its members' names."""
        return f"{f'-r{self.repeat}' if self.repeat else ''}-f{self.number}" if self.k else ""


@dataclass(frozen=True)
class DatasetSettings:
    """One entry of `datasets`.

    Attributes:
        orientations: 4 makes each (class, quarter turn) a class of its own (the digits' superset); else 1.
        declared_classes: published count, which `septet plan` uses where images are absent; `declared_*` likewise.
        name: one of torchvision's datasets, downloaded to `root` if `download` allows it.
        train: the files below the root that hold this split: a csv file, or a pattern of shards with `*` and
            `{000..146}`; None lets the source find them, as for `val`, `test` and the settings below.
        images: csv's folder of images, with `{split}` if each split has one.
        id_column: a column of csv or parquet, as the other two.
        class_names: a file with the names of classes 0, 1, …, one a line, for labels that are numbers.
        exif: whether images are turned as their EXIF orientation says.
        max_pixels: the most pixels of an image; larger ones cannot be read.
        keep: the part of an image that is prepared: its centre square, or the whole for crops to choose from.
        relabel: a csv file with corrected labels of training images, by id.
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
    exif: Exif = Exif.apply
    max_pixels: int = MAX_PIXELS
    keep: Keep = Keep.centre
    relabel: str | None = None

    def __post_init__(self) -> None:
        require(1 <= self.size <= 4096, f"size={self.size}: give pixels in 1…4096")
        for name in ("val_fraction", "dev_fraction"):
            share = getattr(self, name)
            require(0 <= share < 1, f"{name}={share}: give a share in [0, 1)")
        require(self.orientations in (1, 4), f"orientations={self.orientations}: give 1 or 4")
        require(
            not (is_url(self.root or "") and _CREDENTIALS.search(self.root or "")),
            "root: contains a password or a signature, which config.yaml would store: give it in the environment",
        )
        for name, sources in _READ_BY.items():
            value, readers = getattr(self, name), " or ".join(sorted(sources))
            is_read = value == _DEFAULTS[name] or self.source in sources
            require(is_read, f"{name}={value}: only source={readers} reads it, not {self.source}")
        limits = f"give 1…{LARGEST_MAX_PIXELS}"
        require(1 <= self.max_pixels <= LARGEST_MAX_PIXELS, f"max_pixels={self.max_pixels}: {limits}")
        require(1 <= self.jpeg_quality <= 100, f"jpeg_quality={self.jpeg_quality}: give 1…100")
        require_least(self, 0, "declared_classes", "declared_train", "declared_val", "declared_test")


_DEFAULTS = {field.name: field.default for field in fields(DatasetSettings)}

# Photographs at quality 90 and 256 pixels took 0.34. Higher qualities take up to three times that.
_JPEG_BYTES_A_PIXEL = 0.45
_FINE_JPEG_BYTES_A_PIXEL = 1.5
_FINE_QUALITY = 90
# The widest of most cameras' photographs, 3:2, in squares.
_WHOLE_SQUARES = 1.5


def stored_image_bytes(size: int, store_format: StoreFormat, jpeg_quality: int, keep: Keep = Keep.centre) -> int:
    """Returns the bytes of a prepared image; an estimate on the high side for JPEG and for whole photographs."""
    if keep is Keep.whole:
        return round(_WHOLE_SQUARES * stored_image_bytes(size, store_format, jpeg_quality))
    if store_format is StoreFormat.raw:
        return 3 * size * size
    a_pixel = _JPEG_BYTES_A_PIXEL if jpeg_quality <= _FINE_QUALITY else _FINE_JPEG_BYTES_A_PIXEL
    return round(a_pixel * size * size)


# The place of the images and their published counts. What `classes` and `relabel` name counts elsewhere, the files'
# paths nowhere.
_DECLARED = ("declared_classes", "declared_train", "declared_val", "declared_test")
_NO_OPTIONS = frozenset({"root", "download", "classes", "class_names", "relabel", *_DECLARED})
# These shape only JPEG pixels, so raw stores leave them out of keys and hashes.
_JPEG_OPTIONS = frozenset({"store_format", "jpeg_quality"})


def dataset_options(settings: DatasetSettings) -> dict[str, str | int | float]:
    """Returns the settings that shape a dataset besides its files and classes, in the order of the fields.

    They are part of the store's key and of the plan's hash, so an addition changes both. Settings that only some
    sources read (`_READ_BY`) appear only where they are given, so that the hashes of other sources stay the same.
    """
    unused = _NO_OPTIONS if settings.store_format is StoreFormat.jpeg else _NO_OPTIONS | _JPEG_OPTIONS
    values = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name not in unused}
    values = {name: value for name, value in values.items() if name not in _READ_BY or value != _DEFAULTS[name]}
    return {name: value.value if isinstance(value, StrEnum) else value for name, value in values.items()}
