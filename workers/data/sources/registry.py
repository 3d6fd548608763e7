"""What a dataset holds, found by listing files: nothing is decoded here."""

from collections.abc import Mapping
from dataclasses import dataclass

from workers.data.sources.csv import list_csv
from workers.data.sources.digits import list_digits
from workers.data.sources.folder import list_folder
from workers.data.sources.held_out import num_held_out
from workers.data.sources.ilsvrc import list_ilsvrc
from workers.data.sources.listing import Listing
from workers.data.sources.parquet import list_parquet
from workers.data.sources.torchvision import list_torchvision
from workers.data.sources.tree import tree_at
from workers.data.sources.webdataset import list_webdataset
from workers.settings import FILE_SOURCES, DatasetSettings, Source


@dataclass(frozen=True)
class Survey:
    """Classes and the number of images of each split (train, dev, val, test).

    Counts are the most that training sees: preparation leaves out copies of held-out images, what the target holds
    out, and with `on_bad=skip` what it cannot read. `declared`: the images are absent and the counts are the published
    ones.
    """

    classes: tuple[str, ...]
    num_classes: int
    counts: Mapping[str, int]
    declared: bool


def open_listing(settings: DatasetSettings) -> Listing:
    """Lists the dataset that `settings` describe; raises DataError where it does not hold what it must."""
    match settings.source:
        case Source.digits:
            return list_digits(settings)
        case Source.torchvision:
            return list_torchvision(settings)
        case Source.csv:
            return list_csv(settings)
        case Source.webdataset:
            return list_webdataset(settings)
        case Source.parquet:
            return list_parquet(settings)
        case Source.ilsvrc:
            return list_ilsvrc(settings)
        case Source.folder:
            return list_folder(settings)


def survey(settings: DatasetSettings, *, allow_absent: bool = False) -> Survey:
    """Classes and counts of a dataset.

    Args:
        settings: the dataset.
        allow_absent: answer with the declared counts where the root is missing and counts are declared.

    Raises:
        DataError: a missing root, an empty class, a class that train lacks.
    """
    if allow_absent and settings.source in FILE_SOURCES and settings.declared_classes and _absent(settings.root):
        return _declared(settings)
    listing = open_listing(settings)
    return Survey(listing.classes, len(listing.classes), listing.counts(), declared=False)


def _absent(root: str | None) -> bool:
    return root is None or tree_at(root).find("") is None


def _declared(settings: DatasetSettings) -> Survey:
    train, val = settings.declared_train, settings.declared_val
    if val == 0:
        val = num_held_out(settings.val_fraction, train)
        train -= val
    dev = num_held_out(settings.dev_fraction, train)
    counts = {"train": train - dev, "dev": dev, "val": val, "test": settings.declared_test}
    return Survey((), settings.declared_classes, counts, declared=True)
