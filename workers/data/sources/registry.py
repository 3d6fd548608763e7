"""Lists the dataset that settings describe, with the source that they name, without decoding images."""

from collections.abc import Callable, Mapping

from workers.data.sources.csv import list_csv
from workers.data.sources.digits import DigitsListing
from workers.data.sources.folder import list_folder
from workers.data.sources.ilsvrc import list_ilsvrc
from workers.data.sources.listing import Listing
from workers.data.sources.parquet import list_parquet
from workers.data.sources.torchvision import list_torchvision
from workers.data.sources.webdataset import list_webdataset
from workers.settings import DatasetSettings, Source

_LISTERS: Mapping[Source, Callable[[DatasetSettings], Listing]] = {
    Source.digits: DigitsListing,
    Source.folder: list_folder,
    Source.csv: list_csv,
    Source.webdataset: list_webdataset,
    Source.parquet: list_parquet,
    Source.torchvision: list_torchvision,
    Source.ilsvrc: list_ilsvrc,
}


def open_listing(settings: DatasetSettings) -> Listing:
    """Lists the dataset that `settings` describe; raises DataError if files, classes or images are missing."""
    return _LISTERS[settings.source](settings)
