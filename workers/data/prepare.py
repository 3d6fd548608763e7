"""Decodes a dataset once into a packed store that all members map; the same dataset again returns at once."""

import fcntl
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from workers.atomic import atomic_folder, fsync_folder, storage_errors, write_json
from workers.data.colour import image_statistics
from workers.data.excluded import NOTHING, Excluded
from workers.data.listing import LeftOut, Listing, Rows
from workers.data.pack import Unreadable, pack_split, save_npy
from workers.data.sources import open_listing
from workers.data.store import MANIFEST, MEAN_IMAGE, SCHEMA, digest_of, open_store
from workers.digest import sha256_of
from workers.errors import DataError, StorageError
from workers.settings import SPLITS, DatasetSettings, OnBad, dataset_options

_MOST_NAMED = 10


@dataclass(frozen=True)
class PrepareProgress:
    """How far a preparation is: images hashed (`phase` "read"), then decoded and written ("pack")."""

    source: str
    phase: str
    done: int
    total: int


def prepare(
    settings: DatasetSettings,
    store_root: Path,
    progress: Callable[[PrepareProgress], None] | None = None,
    excluded: Excluded = NOTHING,
) -> Path:
    """Packs a dataset into `store_root/<key>`, unless it is there already, and returns that folder.

    The key covers options, classes and every file's path, size and time. Where train holds some of `excluded`, they are
    left out, and the key covers `excluded` too; where it holds none, store and key are those of the dataset alone. Of
    processes that prepare the same dataset at once, one builds and the others wait for it. After an error nothing is
    left on disk.

    Raises:
        DataError: the dataset does not hold what it must, or images cannot be read.
        StorageError: the store is full, unwritable or damaged.
    """
    listing = open_listing(settings)
    store_root = store_root.expanduser().absolute()
    place = _Place(store_root, store_key(settings, listing), excluded)
    found = _find(place)
    if found is None:
        with _folder_made(store_root), _locked(store_root / f"{place.key}.lock"):
            found = _find(place)
            if found is None:
                found = _build(settings, listing, place, progress)
    return open_store(found).path


def store_key(settings: DatasetSettings, listing: Listing) -> str:
    """16 hex digits that name the store of this dataset as it lies on disk now."""
    parts = [SCHEMA, dataset_options(settings), listing.classes, listing.fingerprint()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Place:
    """Where a store belongs: under the dataset's own key, or a narrowed one if something had to be left out of it."""

    root: Path
    key: str
    excluded: Excluded

    def of(self, *, narrowed: bool) -> Path:
        return self.root / (self.excluded.narrowed(self.key) if narrowed else self.key)


def _find(place: _Place) -> Path | None:
    """The store that is there already; told without reading an image, since superset roots hold millions."""
    whole, narrowed = place.of(narrowed=False), place.of(narrowed=True)
    if whole.exists() and not place.excluded.meets_train_of(open_store(whole)):
        return whole
    return narrowed if narrowed.exists() else None


@contextmanager
def _folder_made(folder: Path) -> Iterator[None]:
    """Makes a folder, and takes it away again if the block fails and left it empty."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise StorageError(f"{folder}: cannot be a folder, a file is in the way: set datasets.store") from error
    try:
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):
                each.rmdir()
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock that leaves no file behind and dies with the process."""
    while True:
        with storage_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The holder before us removed its file: what we hold may not be what the next process will lock.
            if _is_file_at(descriptor, path):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
        finally:
            os.close(descriptor)


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _build(
    settings: DatasetSettings, listing: Listing, place: _Place, progress: Callable[[PrepareProgress], None] | None
) -> Path:
    def report(phase: str, done: int, total: int) -> None:
        if progress is not None:
            progress(PrepareProgress(str(settings.source), phase, done, total))

    every = listing.rows(partial(report, "read"))
    rows = place.excluded.leave_out(every)
    target = place.of(narrowed=len(rows.left_out) > len(every.left_out))
    # A fixed name under the key's lock: what a killed preparation left behind is found and removed by the next.
    building = target.with_name(f".building-{target.name}")
    shutil.rmtree(building, ignore_errors=True)
    try:
        with atomic_folder(building / "store") as folder:
            _write_store(settings, listing, rows, folder, report)
            folder.chmod(0o755)
        (building / "store").rename(target)
        fsync_folder(target.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _write_store(
    settings: DatasetSettings, listing: Listing, rows: Rows, folder: Path, report: Callable[[str, int, int], None]
) -> None:
    total = sum(len(rows.splits[split]) for split in SPLITS)
    done = itertools.count(1)

    left_out = list(rows.left_out)
    unreadable: dict[str, tuple[Unreadable, ...]] = {}
    labels: dict[str, np.ndarray] = {}
    for split in SPLITS:
        if rows.splits[split]:
            packed = pack_split(
                listing,
                rows.splits[split],
                settings.size,
                folder,
                split,
                keep_unreadable=split == "test",
                labelled=split != "test" or listing.labelled_test,
                progress=lambda: report("pack", next(done), total),
            )
            labels[split] = packed.labels
            unreadable[split] = packed.unreadable
    kept_unreadable = unreadable.pop("test", ())
    if settings.on_bad is OnBad.stop:
        _require_readable(settings, [each for split in unreadable.values() for each in split])
    left_out += [LeftOut(split, each.path, each.reason) for split in unreadable for each in unreadable[split]]
    _require_every_class(settings, listing.classes, labels.get("train", np.empty(0, np.int64)), left_out)
    statistics = image_statistics(np.load(folder / "train.images.npy", mmap_mode="r"))
    save_npy(folder / MEAN_IMAGE, statistics.mean_image)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    hashes = {name: sha256_of(folder / name) for name in sizes}
    write_json(
        folder / MANIFEST,
        {
            "schema": SCHEMA,
            "options": dataset_options(settings),
            "size": settings.size,
            "classes": list(listing.classes),
            "class_ids": list(listing.class_ids),
            "counts": {split: len(labels[split]) if split in labels else 0 for split in SPLITS},
            "digest": digest_of(listing.classes, hashes),
            **asdict(statistics.colour),
            "left_out": [asdict(each) for each in left_out],
            "unreadable": {"test": [asdict(each) for each in kept_unreadable]},
            "files": {name: {"size": sizes[name], "sha256": hashes[name]} for name in sizes},
        },
    )


def _require_readable(settings: DatasetSettings, bad: list[Unreadable]) -> None:
    if bad:
        named = ", ".join(f"{each.path} ({each.reason})" for each in bad[:_MOST_NAMED])
        more = f" and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
        raise DataError(
            f"{settings.root}: {len(bad)} of its images cannot be read: {named}{more}; "
            "replace or remove them, or set datasets.<name>.on_bad=skip"
        )


def _require_every_class(
    settings: DatasetSettings, classes: tuple[str, ...], labels: np.ndarray, left_out: list[LeftOut]
) -> None:
    for index in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)[:1]:
        inside = [each for each in left_out if f"/{classes[index]}/" in each.path]
        why = f" ({inside[0].path}: {inside[0].reason})" if inside else ""
        raise DataError(
            f"{settings.root}: no image of class {classes[index]} is left to train on{why}: "
            "add images, or drop the class"
        )
