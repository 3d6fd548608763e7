"""Lists and prepares what settings of a data set name, or tells the one line that they are refused with."""

import os
from pathlib import Path
from typing import Any

import pytest

from workers.data.sources import Rows, open_listing
from workers.data.sources.listing import unwatched
from workers.data.store import Store, open_store, prepare
from workers.data.survey import survey
from workers.errors import DataError
from workers.settings import DatasetSettings


def rows_of(settings: DatasetSettings) -> Rows:
    return open_listing(settings).rows(unwatched)


def labels_of(settings: DatasetSettings) -> dict[str, str]:
    """The class of each image that train lists, dev and val included, by the name of its row."""
    classes, splits = open_listing(settings).classes, rows_of(settings).splits
    return {row.name: classes[row.label] for split in ("train", "dev", "val") for row in splits[split]}


def refusal(settings: DatasetSettings) -> str:
    with pytest.raises(DataError) as caught:
        survey(settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def folder(root: Path, size: int = 8, **changes: Any) -> DatasetSettings:
    return DatasetSettings(root=str(root), size=size, **changes)


def store_of(settings: DatasetSettings, place: Path, *more: Any, **named: Any) -> Store:
    return open_store(prepare(settings, place, *more, **named))


def flip(path: Path, at: int = 1000) -> None:
    """Changes 40 bytes in place and keeps size and times, as rot on a disk does."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        changed = bytes(byte ^ 0x55 for byte in file.read(40))
        file.seek(at)
        file.write(changed)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
