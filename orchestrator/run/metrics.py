"""Follows metrics.jsonl files while workers write them: the driver's eye on a stage, for MLflow."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.storage import parse_json

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """One line of metrics.jsonl; `time` in unix seconds."""

    step: int
    epoch: float
    time: float
    metrics: Mapping[str, float]


class Follower:
    """Gives each point of one file once, also when the file is cut back and written anew in between.

    A file that was replaced (another inode) or has shrunk is read from its start; points given before are known by
    step and time, and left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0
        self._given: set[tuple[int, float]] = set()

    def read(self) -> Sequence[Point]:
        """The points that have come since the last call; none while there is no file."""
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset = status.st_ino, 0
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return ()
        # A line still being written has no newline yet: it is left for the next call.
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        points = [point for line in whole.splitlines() if (point := self._parse(line)) is not None]
        fresh = [point for point in points if (point.step, point.time) not in self._given]
        self._given.update((point.step, point.time) for point in fresh)
        return fresh

    def _parse(self, line: bytes) -> Point | None:
        try:
            value = parse_json(line)
            return Point(value["step"], value["epoch"], value["time"], value["metrics"])
        except (ValueError, KeyError, TypeError):
            # A torn line of a worker that was killed; the stage cuts it off when it resumes.
            _log.warning("%s: skipped an unreadable line", self._path)
            return None
