"""Decodes a dataset once into a packed store that all members map; an existing store is used again."""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from workers.data.decoding import Rules
from workers.data.relabel import read_relabelling
from workers.data.sources import KeptContents, LeftOut, Listing, Row, Rows, open_listing
from workers.data.store.disk_space import require_space, store_bytes
from workers.data.store.excluded import NOTHING, Excluded
from workers.data.store.integrity import damaged_files, note_whole
from workers.data.store.packing import PackingThreads, pack
from workers.data.store.pixels import Pixels
from workers.data.store.relabelled import relabelled
from workers.data.store.shards import RECORDS, Decided, Encoding, ShardRunner, Unreadable, records_of, write_npy
from workers.data.store.statistics import image_statistics
from workers.data.store.store import (
    MANIFEST,
    MEAN_IMAGE,
    SCHEMA,
    digest_of,
    open_store,
    read_store,
    split_shards,
)
from workers.errors import DataError, SourceLost, StorageError, some
from workers.settings import SPLITS, DatasetSettings, OnBad, Source, StoreFormat, Verify, dataset_options
from workers.storage import (
    expanded,
    fsync,
    is_locked,
    locked,
    make_folder,
    remove_leftovers,
    sealed,
    storage_errors,
    write_bytes,
)

_MOST_NAMED = 10
_WHOLE_VAL = "replace them: without a test split, the submission needs a line for each image of val"
_WHOLE_TEST = (
    "all of test, so that each line of the submission would be a guess: replace them, or remove the test split"
)
_TWO_CLASSES = "the same image in another class too, used for both"
_BUILDING = ".building-"
_CONTENTS = "contents"
_ABANDONED_S = 7 * 24 * 3600.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareProgress:
    """The progress of a preparation.

    Images are hashed (`phase` "read"), then decoded and written ("pack"); those of an existing store are compared with
    its manifest ("verify").
    """

    source: str
    phase: str
    done: int
    total: int


def prepare(
    settings: DatasetSettings,
    store_root: Path,
    progress: Callable[[PrepareProgress], None] | None = None,
    excluded: Excluded = NOTHING,
    runner: ShardRunner | None = None,
    verify: Verify = Verify.changed,
) -> Path:
    """Packs a dataset into `store_root/<key>`, unless it exists, and returns that folder.

    The key covers options, classes and every file's path, size and time. If train has images in `excluded`, they are
    left out and the key covers `excluded` too; otherwise store and key are those of the dataset alone. If several
    processes prepare the same dataset, one builds it and the others wait. Damaged files of an existing store are packed
    again from the source, and must get the same bytes. Corrected labels make a store beside it, of the same pixels.

    A preparation that was killed, interrupted or cut off from its source leaves `.building-<key>` with the finished
    shards, from which the next one resumes. After other errors nothing is left on disk. Memory holds the pixels of one
    image per thread (and the JPEGs of one shard), and the names, labels and sizes of all images.

    Args:
        settings: the dataset.
        store_root: the folder of stores.
        progress: called several times a second.
        excluded: contents that train must not have.
        runner: packs the shards; None for threads of this process.
        verify: how often an existing store is read whole (`integrity.damaged_files`).

    Raises:
        DataError: images or classes are missing, or images cannot be read.
        SourceLost: listed files can no longer be read.
        StorageError: the disk has too little space, or the store is unwritable, or damaged and cannot be packed again.
    """
    listing = open_listing(settings)
    store_root = expanded(store_root).absolute()
    key, corrections = store_key(settings, listing), read_relabelling(settings, listing)
    work = _Preparation(settings, listing, store_root, key, excluded, runner or PackingThreads(), verify, progress)
    with _folder_made(store_root):
        found = _find(work, repair=False)
        if found is None:
            with locked(store_root / f"{key}.lock"):
                found = _find(work, repair=True) or _build(work)
    store = open_store(found)
    return relabelled(store, corrections, verify) if corrections and corrections.changes else store.path


def store_key(settings: DatasetSettings, listing: Listing) -> str:
    """Returns 16 hex digits that identify this dataset with its current files."""
    parts = [SCHEMA, dataset_options(settings), listing.classes, listing.fingerprint()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Preparation:
    """A dataset to pack, under its own key in `root`, or under a narrowed key if excluded images are left out."""

    settings: DatasetSettings
    listing: Listing
    root: Path
    key: str
    excluded: Excluded
    runner: ShardRunner
    verify: Verify
    progress: Callable[[PrepareProgress], None] | None

    @property
    def building(self) -> Path:
        """The folder of an unfinished preparation: contents of files, and a folder of shards for each store."""
        return self.root / f"{_BUILDING}{self.key}"

    def of(self, *, narrowed: bool) -> Path:
        return self.root / (self.excluded.narrowed(self.key) if narrowed else self.key)

    def report(self, phase: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(PrepareProgress(str(self.settings.source), phase, done, total))


def _find(work: _Preparation, *, repair: bool) -> Path | None:
    """Returns the existing store, if any, without reading the source; a damaged one counts only after a repair."""
    for narrowed in (False, True):
        folder = work.of(narrowed=narrowed)
        if not folder.exists():
            continue
        damaged = _damaged_files(work, folder)
        if damaged and not os.access(folder, os.W_OK):
            raise StorageError(
                f"{folder / damaged[0]}: the prepared dataset is damaged, and this account cannot write there: let its "
                "owner run this, or give another datasets.store"
            )
        if damaged and not repair:
            return None
        if damaged:
            _repair(work, folder, damaged)
        if narrowed or not work.excluded.meets_train_of(open_store(folder)):
            return folder
    return None


def _damaged_files(work: _Preparation, folder: Path) -> list[str]:
    store = read_store(folder)
    num_images = {each.images.name: each.num_images for shards in store.shards.values() for each in shards}
    done = 0

    def read(name: str) -> None:
        nonlocal done
        done += num_images.get(name, 0)
        if name in num_images:
            work.report("verify", done, sum(num_images.values()))

    return damaged_files(folder, store.files, work.verify, read)


def _repair(work: _Preparation, folder: Path, damaged: list[str]) -> None:
    """Packs the damaged files of a store again, beside it, and puts them in place one by one."""
    where = f"{folder / damaged[0]}{f' and {len(damaged) - 1} more files' if damaged[1:] else ''}"
    _log.warning("%s: damaged; packing it again from %s", where, work.settings.root or work.settings.source)
    store, building = read_store(folder), work.building
    beside = building / folder.name
    try:
        # What a killed repair left may be links to files that have been damaged since.
        shutil.rmtree(beside, ignore_errors=True)
        with storage_errors(beside):
            beside.mkdir(parents=True)
            shutil.copytree(folder / RECORDS, records_of(beside), dirs_exist_ok=True)
            for name in store.files.keys() - damaged:
                # A file that cannot be linked there is packed again.
                with suppress(OSError):
                    (beside / name).hardlink_to(folder / name)
        every = _every_row(work)
        _write_store(work, every if folder == work.of(narrowed=False) else work.excluded.leave_out(every), beside)
        made = read_store(beside).files
        differing = [name for name in damaged if made.get(name) != store.files[name]]
        if differing:
            raise StorageError(f"{differing[0]} would have other bytes now; delete {folder} to prepare all of it again")
        with storage_errors(folder):
            for name in damaged:
                (beside / name).replace(folder / name)
            fsync(folder)
    except (DataError, SourceLost, StorageError, OSError) as error:
        raise StorageError(f"{where}: the prepared dataset is damaged and cannot be packed again: {error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


@contextmanager
def _folder_made(folder: Path) -> Iterator[None]:
    """Makes a folder, and deletes it if the block fails and leaves it empty."""
    missing = make_folder(folder, "datasets.store")
    try:
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):
                each.rmdir()
        raise


def _build(work: _Preparation) -> Path:
    building = work.building
    _remove_abandoned(work.root, besides=building)
    _require_room(work)
    try:
        every = _every_row(work)
        rows = work.excluded.leave_out(every)
        target = work.of(narrowed=len(rows.left_out) > len(every.left_out))
        folder = building / target.name
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        _write_store(work, rows, folder)
        _commit(folder, target)
    except SourceLost:
        # Kept, because a short outage should not cost hours of hashing and packing.
        raise
    except (DataError, StorageError):
        # The user must change the data or free space before it can be used, so it is deleted.
        shutil.rmtree(building, ignore_errors=True)
        raise
    shutil.rmtree(building, ignore_errors=True)
    return target


def _every_row(work: _Preparation) -> Rows:
    return work.listing.rows(partial(work.report, "read"), KeptContents(work.building / _CONTENTS))


def _commit(folder: Path, target: Path) -> None:
    """Renames a finished store into place; all its files are on disk, each committed by rename."""
    with storage_errors(target):
        remove_leftovers(folder)
        # Kept for repairs: with them only the damaged shards are packed again.
        shutil.rmtree(folder / RECORDS, ignore_errors=True)
        records_of(folder).rename(folder / RECORDS)
        note_whole(folder, list(read_store(folder).files))
        fsync(folder)
        folder.rename(target)
        fsync(target.parent)


def _remove_abandoned(store_root: Path, besides: Path) -> None:
    """Deletes preparations that were abandoned a week ago; once their images have changed, nothing resumes them."""
    for building in store_root.glob(f"{_BUILDING}*"):
        # A running preparation may end, and delete its folder, at any moment.
        with suppress(FileNotFoundError, NotADirectoryError):
            last_change = max(each.stat().st_mtime for each in (building, *building.iterdir()))
            lock = store_root / f"{building.name.removeprefix(_BUILDING)}.lock"
            if building != besides and time.time() - last_change > _ABANDONED_S and not is_locked(lock):
                shutil.rmtree(building, ignore_errors=True)


def _require_room(work: _Preparation) -> None:
    """Raises StorageError, before any image is read, if the disk has too little space for the unfinished shards."""
    settings, num_images = work.settings, sum(work.listing.counts().values())
    needed, as_jpeg = (
        store_bytes(num_images, settings.size, each, settings.jpeg_quality, settings.keep)
        for each in (settings.store_format, StoreFormat.jpeg)
    )
    raw = settings.store_format is StoreFormat.raw
    smaller = f", or store JPEG with datasets.<name>.store_format=jpeg (about {as_jpeg:,} bytes)" if raw else ""
    written = sum(path.stat().st_size for path in work.building.glob("*/*.npy"))
    change = f"set datasets.store to a folder on another disk{smaller}"
    require_space(work.root, max(0, needed - written), f"the prepared dataset of {num_images:,} images", change)


def _write_store(work: _Preparation, rows: Rows, folder: Path) -> None:
    settings, listing = work.settings, work.listing
    total = sum(len(rows.splits[split]) for split in SPLITS)
    done = 0

    def packed_more(num_images: int) -> None:
        nonlocal done
        done += num_images
        work.report("pack", done, total)

    encoding = Encoding(settings.store_format, settings.jpeg_quality)
    rules = Rules(settings.exif, settings.max_pixels, settings.keep)
    packed = pack(listing, rows.splits, settings.size, encoding, folder, work.runner, packed_more, rules)
    unreadable = {split: each.unreadable for split, each in packed.items()}
    kept_unreadable = unreadable.pop("test", ())
    if settings.on_bad is OnBad.stop:
        every = [each for split in unreadable.values() for each in split]
        _require_readable(settings, every, "replace or remove them, or set datasets.<name>.on_bad=skip")
    elif listing.class_ids and not rows.splits["test"]:
        # The challenge's submission is then on val, and names no image: after a missing line all others would be wrong.
        _require_readable(settings, list(unreadable.get("val", ())), _WHOLE_VAL)
    if len(kept_unreadable) == len(rows.splits["test"]):
        _require_readable(settings, list(kept_unreadable), _WHOLE_TEST)
    left_out = list(rows.left_out)
    left_out += [LeftOut(split, each.path, each.reason) for split in unreadable for each in unreadable[split]]
    train = packed.get("train")
    labels = np.empty(0, np.int64) if train is None else train.labels
    _require_every_class(settings, listing.classes, labels, left_out)
    if train is None:
        raise DataError(f"{settings.root}: train has no image: add some, or correct the root")
    shards = split_shards(folder, "train", encoding.format, train.shards)
    statistics = image_statistics(Pixels(shards, settings.size, shapes=train.shapes))
    files = {MEAN_IMAGE: write_npy(folder / MEAN_IMAGE, statistics.mean_image)}
    for each in packed.values():
        files |= each.files
    manifest = {
        "schema": SCHEMA,
        "options": dataset_options(settings),
        "format": encoding.format.value,
        "size": settings.size,
        "classes": list(listing.classes),
        "class_ids": list(listing.class_ids),
        "counts": {split: sum(packed[split].shards) if split in packed else 0 for split in SPLITS},
        "shards": {split: list(each.shards) for split, each in packed.items()},
        "digest": digest_of(listing.classes, files),
        **asdict(statistics.colour),
        "left_out": [asdict(each) for each in left_out],
        "decisions": {
            split: _by_decision((*each.decided, *_in_two_classes(settings, rows.splits[split])))
            for split, each in packed.items()
        },
        "unreadable": {"test": [asdict(each) for each in kept_unreadable]},
        "files": {name: asdict(files[name]) for name in sorted(files)},
    }
    write_bytes(folder / MANIFEST, sealed(manifest))


def _in_two_classes(settings: DatasetSettings, rows: Sequence[Row]) -> Iterator[Decided]:
    """Yields a decision for each image whose content has several labels in its split."""
    if settings.source is Source.digits:
        return  # whose orientations are turned only when they are decoded
    first: dict[bytes, int] = {}
    several = {row.content for row in rows if first.setdefault(row.content, row.label) != row.label}
    yield from (Decided(row.path, (_TWO_CLASSES,)) for row in rows if row.content in several)


def _by_decision(decided: tuple[Decided, ...]) -> dict[str, list[str]]:
    """Groups paths by decision, so that the manifest of an all-grey dataset has the decision once."""
    paths: dict[str, list[str]] = {}
    for each in decided:
        for decision in each.decisions:
            paths.setdefault(decision, []).append(each.path)
    return dict(sorted(paths.items()))


def _require_readable(settings: DatasetSettings, bad: list[Unreadable], advice: str) -> None:
    if bad:
        named = some([f"{each.path} ({each.reason})" for each in bad], _MOST_NAMED)
        raise DataError(f"{settings.root}: {len(bad)} of its images cannot be read: {named}; {advice}")


def _require_every_class(
    settings: DatasetSettings, classes: tuple[str, ...], labels: np.ndarray, left_out: list[LeftOut]
) -> None:
    for index in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)[:1]:
        inside = [each for each in left_out if f"/{classes[index]}/" in each.path]
        why = f" ({inside[0].path}: {inside[0].reason})" if inside else ""
        raise DataError(
            f"{settings.root}: no image of class {classes[index]} is left to train on{why}: "
            "add images, or remove the class"
        )
