"""Shows a prepared dataset as a member of a fold sees it: without the fold's images, or only those."""

import numpy as np

from workers.data.store.excluded import contents_of
from workers.data.store.store import Store, open_store
from workers.errors import StorageError
from workers.protocol import HeldFold
from workers.settings import OUT_OF_FOLD


def without_fold(store: Store, fold: HeldFold | None) -> Store:
    """Returns the store without the contents of `fold` in any split, so that nothing steers by them either.

    Raises:
        StorageError: the run's folds cannot be read, or are of other images.
    """
    if fold is None:
        return store
    held = contents_of(only_fold(open_store(fold.target), fold), "train")
    kept = {split: held.kept_of(store, split) for split, count in store.counts.items() if count}
    return store.keeping({split: rows for split, rows in kept.items() if len(rows) < store.counts[split]})


def only_fold(target: Store, fold: HeldFold) -> Store:
    """Returns the target with the images of `fold` alone in train; raises StorageError as `without_fold`."""
    return target.keeping({"train": rows_of_fold(target, fold)})


def rows_of_fold(target: Store, fold: HeldFold) -> np.ndarray:
    """Returns the indices, ascending, of the images of `fold` in the target's train as the target shows it.

    Raises:
        StorageError: as `without_fold`.
    """
    try:
        folds = np.load(fold.folds, allow_pickle=False)[:, fold.repeat]
    except (OSError, ValueError, IndexError) as error:
        raise StorageError(f"{fold.folds}: cannot be read ({error}); run `septet launch` again") from error
    if len(folds) != target.counts["train"]:
        raise StorageError(f"{fold.folds}: is of other images than {target.path}; run `septet launch` again")
    return np.flatnonzero(folds == fold.number)


def stored_split(split: str) -> str:
    """Returns the split of a store that has the images of a predicted one."""
    return "train" if split == OUT_OF_FOLD else split
