"""Copies a store onto a node's own disk, so that the node reads shared storage once and not in every epoch."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from workers.data.store.disk_space import require_space
from workers.data.store.integrity import damaged_files, note_whole
from workers.data.store.store import MANIFEST, Store, open_store
from workers.errors import StorageError
from workers.settings import Verify
from workers.storage import (
    Written,
    beating,
    locked,
    make_folder,
    nothing,
    remove_leftovers,
    replacing_folder,
    write_hashed,
)

_BLOCK_BYTES = 8 << 20


def open_on_node(store: Path, local_copy: Path | None, beat: Callable[[], None] = nothing) -> Store:
    """Opens the copy of `store` in this node's folder `local_copy`, which is made first if it is missing or damaged.

    None opens `store` itself. If several processes want the same copy, one makes it and the others wait. Copied files
    must have the sha256 in the store's manifest. `beat` is called again and again meanwhile.

    Raises:
        StorageError: the store is missing or damaged, or the node's disk is full or cannot be written.
    """
    source = open_store(store)
    if local_copy is None:
        return source
    copy = local_copy / f"{store.name}-{source.digest[:16]}"
    found = _opened(copy, source, beat)
    if found is None:
        make_folder(local_copy, "datasets.local_copy")
        with locked(local_copy / f"{copy.name}.lock", beat):
            found = _opened(copy, source, beat) or _copied(source, copy, beat)
    return found


def _opened(copy: Path, source: Store, beat: Callable[[], None]) -> Store | None:
    """Opens the copy if it exists and is whole; reads changed files, and all of them once a week."""
    try:
        opened = open_store(copy)
    except StorageError:
        return None
    whole = opened.digest == source.digest and not damaged_files(copy, opened.files, Verify.changed, lambda _: beat())
    return opened if whole else None


def _copied(source: Store, copy: Path, beat: Callable[[], None]) -> Store:
    # Deletes the rest of a killed copy, which may be as large as the store, and which nothing else deletes.
    remove_leftovers(copy.parent, copy.name)
    needed = sum(entry.size for entry in source.files.values())
    change = "set datasets.local_copy to a larger disk of the nodes, or to null to read the store from shared storage"
    require_space(copy.parent, needed, f"the copy of {source.path}", change)
    # Other members of this node may be reading a damaged copy.
    with replacing_folder(copy) as folder:
        for name, entry in source.files.items():
            _copy_checked(source.path / name, folder / name, entry, beat)
        (folder / MANIFEST).write_bytes((source.path / MANIFEST).read_bytes())
        note_whole(folder, list(source.files))
    return open_store(copy)


def _copy_checked(source: Path, target: Path, expected: Written, beat: Callable[[], None]) -> None:
    with source.open("rb") as reading, target.open("wb") as writing:
        blocks = iter(partial(reading.read, _BLOCK_BYTES), b"")
        copied = write_hashed(writing, beating(blocks, beat))
    if copied != expected:
        raise StorageError(
            f"{source}: the prepared dataset is damaged: its sha256 differs from {MANIFEST}; delete the folder, then "
            "run it again"
        )
