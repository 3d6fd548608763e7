"""Finds damage in a prepared store: whole files by their sha256, single images by a checksum as they are read.

Storage can lose bits at rest without any error, and a store is shared by many runs for years. A store's folder keeps a
note of when its files were last read whole, and of their size, time and inode then.
"""

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from workers.errors import StorageError
from workers.settings import Verify
from workers.storage import Written, parse_json, sha256_of, write_json
from workers.threads import map_in_order

_NOTE = ".verified.json"
_NO_NOTE: dict[str, Any] = {"time": 0.0, "files": {}}
_WHOLE_EVERY_S = 7 * 24 * 3600.0
# Columns of eight bytes; a prime, so that no two blocks of a disk can change places unnoticed. Shorter content is not
# worth summing.
_COLUMNS, _LEAST_ROWS = 509, 8


def checksum(content: np.ndarray) -> int:
    """Returns 32 bits for [n] uint8: the CRC-32 of the sums of columns of words, and of what remains.

    The sums read 60 GB/s and the CRC alone 6 (measured on one core), and raw images are cropped at about 8.
    """
    num_rows = len(content) // (8 * _COLUMNS)
    if num_rows < _LEAST_ROWS:
        return zlib.crc32(content.data)
    summed = num_rows * 8 * _COLUMNS
    words = content[:summed].view("<u8").reshape(num_rows, _COLUMNS)
    return zlib.crc32(content[summed:].data, zlib.crc32(np.add.reduce(words).astype("<u8").data))


def damaged_files(
    folder: Path,
    files: Mapping[str, Written],
    verify: Verify = Verify.always,
    read: Callable[[str], None] | None = None,
) -> list[str]:
    """Returns the names of files that are missing or differ from `files`; reads them in threads.

    `always` reads every file whole, `changed` those whose size, time or inode differ from the note, and all of them if
    the last whole reading is a week old; `never` compares sizes. `read` is called with each name that was read.
    """
    found = {name: _stat(folder / name) for name in files}
    sized = {name for name, stat in found.items() if stat is not None and stat[0] == files[name].size}
    noted = _noted(folder) if verify is Verify.changed else _NO_NOTE
    trusted = noted["files"] if 0 <= time.time() - noted["time"] < _WHOLE_EVERY_S else {}
    suspect = [name for name in files if found[name] is None or trusted.get(name) != found[name]]
    if verify is Verify.never:
        suspect = [name for name in files if name not in sized]

    def differs(name: str) -> bool:
        try:
            return name not in sized or sha256_of(folder / name) != files[name].sha256
        except OSError:
            return True

    damaged = []
    for name, is_damaged in zip(suspect, map_in_order(differs, suspect), strict=True):
        if read is not None:
            read(name)
        damaged += [name] * is_damaged
    if suspect and not damaged and verify is not Verify.never:
        _write_note(folder, noted["time"] if trusted else time.time(), found)
    return damaged


def note_whole(folder: Path, names: Sequence[str]) -> None:
    """Notes that the files are whole, after they have been written and hashed."""
    _write_note(folder, time.time(), {name: _stat(folder / name) for name in names})


def image_damaged(path: Path, index: int) -> StorageError:
    """Returns the error for a damaged image of the shard `path`; the next launch reads the store whole."""
    with suppress(OSError):
        (path.parent / _NOTE).unlink()
    return StorageError(
        f"{path}: image {index} of this shard is damaged (its checksum differs); check that disk, then run it again "
        "with datasets.verify=always, which packs the shard again"
    )


def _stat(path: Path) -> list[int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _noted(folder: Path) -> dict[str, Any]:
    try:
        noted = parse_json((folder / _NOTE).read_bytes())
        return {"time": float(noted["time"]), "files": dict(noted["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return _NO_NOTE


def _write_note(folder: Path, time_s: float, files: Mapping[str, list[int] | None]) -> None:
    # A store of another account may be read-only: then each launch reads it whole.
    with suppress(StorageError):
        write_json(folder / _NOTE, {"time": time_s, "files": files})
