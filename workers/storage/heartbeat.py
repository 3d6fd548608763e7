"""Heartbeats of a worker while it makes no updates: it sets the modification time of a file that the driver watches.

The working thread itself beats. A separate thread would still beat while the work hangs.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from workers.storage import layout
from workers.storage.atomic import storage_errors

_T = TypeVar("_T")


def beat(stage_dir: Path) -> None:
    """Updates the modification time of the stage's step.txt, whose folder must exist."""
    path = stage_dir / layout.STEP
    with storage_errors(path):
        path.touch()


def beating(items: Iterable[_T], beat: Callable[[], None]) -> Iterator[_T]:
    """Yields `items`, with a beat before each."""
    for item in items:
        beat()
        yield item
