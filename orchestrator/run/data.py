"""Reads RUN_DIR/data: what a run keeps of its target dataset, enough to score and submit without the dataset."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workers.data.ids import spellings
from workers.errors import DataError, RunMismatch, StorageError
from workers.settings import HELD_OUT, OUT_OF_FOLD, Fold
from workers.storage import layout, parse_json, storage_errors

if TYPE_CHECKING:
    from workers.data.store import Store


@dataclass(frozen=True)
class SplitData:
    """One split of the target dataset.

    `rows` are paths below the split in file order, `labels` is (rows,) int64 or None if the split has none, `sizes` is
    (rows, 2) int32 with the original width and height in pixels, `unreadable` holds row indexes, and `rows_sha256` is
    the sha256 of the rows file.
    """

    name: str
    rows: tuple[str, ...]
    rows_sha256: str
    labels: NDArray[np.int64] | None
    sizes: NDArray[np.int32]
    unreadable: tuple[int, ...]


@dataclass(frozen=True)
class RunData:
    """The target dataset's classes, digest and splits; a split without images is absent.

    `class_ids` are the ids that the dataset's challenge gives its classes (the ILSVRC2012_IDs of a development kit), in
    the order of `classes`; empty if the dataset has none. The split `oof` are the training images of a run with folds,
    and `folds` [images, repeats] each one's fold in each partition.
    """

    digest: str
    classes: tuple[str, ...]
    splits: Mapping[str, SplitData]
    class_ids: tuple[str, ...] = ()
    folds: NDArray[np.int16] | None = None

    @property
    def labelled(self) -> tuple[str, ...]:
        return tuple(name for name, split in self.splits.items() if split.labels is not None)

    @property
    def scored(self) -> tuple[str, ...]:
        """Returns the splits to report scores on, the main one first: test if it has labels, then val, then oof."""
        return tuple(name for name in ("test", "val", OUT_OF_FOLD) if name in self.labelled)

    @property
    def submitted(self) -> str:
        """Returns the split of the submission: test, or val if there is no test, or oof if there is neither."""
        return next((name for name in ("test", "val") if name in self.splits), OUT_OF_FOLD)

    def rows_of(self, fold: Fold) -> NDArray[np.int64]:
        """Returns the indices, ascending, of the images of `oof` that are in `fold`; all of one from outside."""
        assert self.folds is not None, "a run with folds"
        if not fold.k:
            return np.arange(len(self.folds))
        return np.flatnonzero(self.folds[:, fold.repeat] == fold.number)

    def part(self, split: str, fold: Fold) -> SplitData:
        """Returns what a member of `fold` predicts of a split: of oof its own rows."""
        whole = self.splits[split]
        if split != OUT_OF_FOLD or not fold.k:
            return whole
        own = self.rows_of(fold)
        rows = tuple(whole.rows[index] for index in own)
        text = "".join(f"{row}\n" for row in rows).encode(errors="surrogateescape")
        labels = None if whole.labels is None else whole.labels[own]
        return SplitData(split, rows, hashlib.sha256(text).hexdigest(), labels, whole.sizes[own], ())

    def labels(self, split: str) -> NDArray[np.int64]:
        """Returns the labels (rows,) of a split that has them."""
        labels = self.splits[split].labels
        assert labels is not None, f"{split} has no labels"
        return labels


def spelled_as(ids: Collection[str], rows: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of `rows` in the spelling that is meant: the one that matches the most of `ids`."""
    wanted = set(ids)
    return max(zip(*map(spellings, rows), strict=True), key=lambda names: len(wanted.intersection(names)))


def of_store(store: "Store", folds: NDArray[np.int16] | None = None) -> RunData:
    """Returns what `read_run_data` will return once `store` and `folds` are exported; writes nothing."""
    sources = {name: name for name in HELD_OUT} | ({} if folds is None else {OUT_OF_FOLD: "train"})
    splits = {
        name: SplitData(
            name,
            tuple(store.rows(source)),
            store.rows_sha256(source),
            store.labels(source),
            store.sizes(source),
            store.unreadable(source),
        )
        for name, source in sources.items()
        if store.counts[source]
    }
    return RunData(store.digest, store.classes, splits, store.class_ids, folds)


def require_same_folds(folder: Path, folds: NDArray[np.int16] | None) -> None:
    """Raises RunMismatch unless `folds` continue those in `folder`: members would predict what they were trained on."""
    path = folder / layout.FOLDS
    with storage_errors(path):
        before = np.load(path, allow_pickle=False) if path.exists() else None
    if before is not None and (folds is None or not np.array_equal(before, folds[:, : before.shape[1]])):
        raise RunMismatch(
            f"{path}: the target's images have other folds now than the members of this run; give another run_dir"
        )


def read_run_data(folder: Path) -> RunData:
    """Reads `folder` (RUN_DIR/data).

    Raises:
        DataError: the run has not written it yet.
        StorageError: its files are damaged or disagree.
    """
    try:
        with storage_errors(folder):
            return _read(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{folder}: {error.filename or 'a file'} is missing; run `septet launch` first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{folder}: damaged ({error}); delete it and run `septet launch` again") from error


def _read(folder: Path) -> RunData:
    about = parse_json((folder / layout.DATASET).read_text())
    classes = _lines((folder / layout.CLASSES).read_bytes())
    # Splits come from the counts, not the files: files of an earlier export may remain.
    splits = {name: _read_split(folder, name, about) for name in HELD_OUT if about["counts"][name]}
    folds = None
    if about["counts"].get(OUT_OF_FOLD):
        splits[OUT_OF_FOLD] = _read_split(folder, OUT_OF_FOLD, about)
        folds = np.load(folder / layout.FOLDS, allow_pickle=False)
        if folds.ndim != 2 or len(folds) != len(splits[OUT_OF_FOLD].rows):
            raise ValueError(f"{layout.FOLDS} is of other images than {layout.rows(OUT_OF_FOLD)}")
    class_ids = tuple(str(class_id) for class_id in about["class_ids"])
    if class_ids and len(class_ids) != len(classes):
        raise ValueError(f"{len(class_ids)} class ids in dataset.json for {len(classes)} classes")
    return RunData(str(about["digest"]), classes, splits, class_ids, folds)


def _read_split(folder: Path, name: str, about: Mapping[str, Any]) -> SplitData:
    content = (folder / layout.rows(name)).read_bytes()
    rows = _lines(content)
    labels_path = folder / layout.labels(name)
    labels = np.load(labels_path, allow_pickle=False).astype(np.int64) if labels_path.exists() else None
    sizes = np.load(folder / layout.sizes(name), allow_pickle=False)
    if {len(rows), len(sizes), len(rows if labels is None else labels)} != {about["counts"][name]}:
        raise ValueError(f"{name}: the numbers of rows, labels and sizes differ from the count in dataset.json")
    unreadable = tuple(int(row) for row in about["unreadable"].get(name, ()))
    return SplitData(name, rows, hashlib.sha256(content).hexdigest(), labels, sizes, unreadable)


def _lines(content: bytes) -> tuple[str, ...]:
    # Not splitlines(): a file name may hold U+2028 or a form feed. Names that are not UTF-8 survive as surrogates.
    return tuple(content.decode(errors="surrogateescape").removesuffix("\n").split("\n")) if content else ()
