"""How a worker says that its work goes on where no update is made: whoever watches it sees a file's time move.

A beat comes from the work itself, never from a thread beside it, which would go on beating over a work that hangs.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from workers.storage import layout
from workers.storage.atomic import storage_errors

_T = TypeVar("_T")


def silent() -> None:
    """A beat that nobody watches."""


def beat(stage_dir: Path) -> None:
    """Moves the time of the stage's step.txt, which must have a folder; its number stays."""
    path = stage_dir / layout.STEP
    with storage_errors(path):
        path.touch()


def beating(items: Iterable[_T], beat: Callable[[], None]) -> Iterator[_T]:
    """`items`, with a beat before each."""
    for item in items:
        beat()
        yield item
