"""Counts a dataset's classes and images for a plan, without decoding images."""

from collections.abc import Mapping
from dataclasses import dataclass

from workers.data.held_out import num_held_out
from workers.data.relabel import Relabelling, read_relabelling
from workers.data.sources import open_listing, tree_at
from workers.settings import FILE_SOURCES, DatasetSettings


@dataclass(frozen=True)
class Survey:
    """Classes and the number of images of each split (train, dev, val, test).

    Counts are upper limits: preparation leaves out copies of held-out images, images that the target holds out, and
    with `on_bad=skip` unreadable ones. `declared` says that images are absent and the counts are the published ones.
    `relabelling` is what `relabel` changes; None without it, or if images are absent.
    """

    classes: tuple[str, ...]
    num_classes: int
    counts: Mapping[str, int]
    declared: bool
    relabelling: Relabelling | None = None


def survey(settings: DatasetSettings, *, allow_absent: bool = False) -> Survey:
    """Returns classes and counts of a dataset.

    Args:
        settings: the dataset.
        allow_absent: return the declared counts, if there are any, if the root is missing.

    Raises:
        DataError: the root is missing, or as `open_listing`.
    """
    may_declare = allow_absent and settings.source in FILE_SOURCES and settings.declared_classes
    if may_declare and (settings.root is None or tree_at(settings.root).find("") is None):
        return _declared(settings)
    listing = open_listing(settings)
    counts, relabelling = listing.counts(), read_relabelling(settings, listing)
    counts["train"] -= len(relabelling.left_out) if relabelling else 0
    return Survey(listing.classes, len(listing.classes), counts, declared=False, relabelling=relabelling)


def _declared(settings: DatasetSettings) -> Survey:
    train, val = settings.declared_train, settings.declared_val
    if val == 0:
        val = num_held_out(settings.val_fraction, train)
        train -= val
    dev = num_held_out(settings.dev_fraction, train)
    counts = {"train": train - dev, "dev": dev, "val": val, "test": settings.declared_test}
    return Survey((), settings.declared_classes, counts, declared=True)
