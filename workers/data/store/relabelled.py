"""Makes a store with corrected labels of train beside a prepared one, of the same files: no image is decoded again."""

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np

from workers.data.relabel import LEFT_OUT, Relabelling
from workers.data.store.integrity import damaged_files, note_whole
from workers.data.store.shards import write_npy
from workers.data.store.store import MANIFEST, RELABELLED, Store, digest_of, open_store
from workers.errors import DataError, StorageError
from workers.settings import Verify
from workers.storage import SEAL, locked, parse_json, remove_leftovers, replacing_folder, sealed, write_bytes


def relabelled(store: Store, corrections: Relabelling, verify: Verify) -> Path:
    """Makes the folder of `store` with the corrected labels, unless it exists, and returns it.

    Which images are held out was decided by the labels before. An image that the store leaves out anyway stays out.

    Raises:
        DataError: an image is held out, or a class loses its last training image.
        StorageError: the folder cannot be written, or `store` is damaged.
    """
    labels = _corrected(store, corrections)
    folder = store.path.parent / hashlib.sha256(f"{store.path.name} {corrections.digest}".encode()).hexdigest()[:16]
    if not _is_whole(folder, verify):
        with locked(store.path.parent / f"{folder.name}.lock"):
            if not _is_whole(folder, verify):
                _make(folder, store, labels)
    return folder


def _corrected(store: Store, corrections: Relabelling) -> np.ndarray:
    """Returns train's labels, [N] int64; -1 for images that are left out."""
    key, changes = corrections.key, corrections.changes
    for split in ("dev", "val"):
        if held := set(store.rows(split)).intersection(changes).difference(store.rows("train")):
            raise DataError(
                f"{key}: {min(held)} is held out as {split}: only training images are relabelled; remove it"
            )
    index = {name: number for number, name in enumerate(store.classes)} | {LEFT_OUT: -1}
    labels = store.labels("train")
    assert labels is not None
    labels = labels.copy()
    for place, row in enumerate(store.rows("train")):
        if row in changes:
            labels[place] = index[changes[row]]
    for empty in np.flatnonzero(np.bincount(labels[labels >= 0], minlength=len(store.classes)) == 0)[:1]:
        raise DataError(f"{key}: no image of class {store.classes[empty]} is left to train on; keep one, or its class")
    return labels


def _is_whole(folder: Path, verify: Verify) -> bool:
    """Returns whether the store exists and is whole; raises StorageError if pixels that it shares are damaged."""
    try:
        damaged = damaged_files(folder, open_store(folder).files, verify)
    except StorageError:
        return False
    if damaged and verify is not Verify.always:
        # Only then have they been repaired in the store that they came from.
        raise StorageError(f"{folder / damaged[0]}: damaged; run it again with datasets.verify=always")
    return not damaged


def _make(folder: Path, store: Store, labels: np.ndarray) -> None:
    remove_leftovers(folder.parent, folder.name)
    with replacing_folder(folder) as new:
        for name in store.files:
            try:
                (new / name).hardlink_to(store.path / name)
            except OSError:
                shutil.copyfile(store.path / name, new / name)
        files = {**store.files, RELABELLED: write_npy(new / RELABELLED, labels)}
        manifest = parse_json((store.path / MANIFEST).read_bytes())
        manifest.pop(SEAL)
        manifest |= {
            "digest": digest_of(store.classes, files),
            "files": {name: asdict(files[name]) for name in sorted(files)},
            "relabel_leaves_out": np.flatnonzero(labels < 0).tolist(),
        }
        write_bytes(new / MANIFEST, sealed(manifest))
        note_whole(new, list(files))
