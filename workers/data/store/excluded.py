"""Images that no dataset may train on, because the target holds them out."""

import hashlib
from dataclasses import dataclass

import numpy as np

from workers.data.sources import LeftOut, Rows
from workers.data.store.store import Store
from workers.settings import HELD_OUT

_SHA256 = np.dtype("S32")
_REASON = "held out by the target"


@dataclass(frozen=True, eq=False)
class Excluded:
    """Contents to leave out of train: distinct sha256, [M] S32 in ascending order."""

    contents: np.ndarray

    def narrowed(self, key: str) -> str:
        """Returns 16 hex digits that identify the store `key` without these contents."""
        return hashlib.sha256(key.encode() + self.contents.tobytes()).hexdigest()[:16]

    def meets_train_of(self, store: Store) -> bool:
        """Returns whether a prepared dataset trains on any of these contents."""
        return bool(self._among(_keys(store.contents("train"))).any())

    def kept_of(self, store: Store, split: str) -> np.ndarray:
        """Returns the indices of a split's images that have none of these contents."""
        return np.flatnonzero(~self._among(_keys(store.contents(split))))

    def leave_out(self, rows: Rows) -> Rows:
        """Returns the rows without those of train that have one of these contents; other splits are unchanged."""
        train = rows.splits["train"]
        hit = self._among(np.frombuffer(b"".join(row.content for row in train), _SHA256))
        kept = tuple(row for row, excluded in zip(train, hit, strict=True) if not excluded)
        left_out = (LeftOut("train", row.path, _REASON) for row, excluded in zip(train, hit, strict=True) if excluded)
        return Rows({**rows.splits, "train": kept}, (*rows.left_out, *left_out))

    def _among(self, keys: np.ndarray) -> np.ndarray:
        """Returns [N] bool, which of `keys` [N] S32 are excluded, by a search, since sorting takes longer."""
        if not len(self.contents):
            return np.zeros(len(keys), bool)
        places = np.searchsorted(self.contents, keys)
        found: np.ndarray = self.contents[np.minimum(places, len(self.contents) - 1)] == keys
        return found


NOTHING = Excluded(np.empty(0, _SHA256))


def held_out_by(target: Store) -> Excluded:
    """Returns the contents of dev, val and test of `target`, which no dataset of its members may train on."""
    return contents_of(target, *HELD_OUT)


def contents_of(store: Store, *splits: str) -> Excluded:
    """Returns the contents of some splits."""
    return Excluded(np.unique(np.concatenate([_keys(store.contents(split)) for split in splits])))


def _keys(contents: np.ndarray) -> np.ndarray:
    """Converts [N, 32] uint8 to [N] S32; NumPy ignores trailing zeros, which is safe at one fixed length."""
    return np.ascontiguousarray(contents).view(_SHA256).ravel()
