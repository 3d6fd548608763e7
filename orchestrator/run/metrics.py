"""Reads metrics.jsonl: the new points as it grows, for driver and report, or only its end, for `septet status`."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.storage import parse_json

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """One line of metrics.jsonl; `time` is in Unix seconds."""

    step: int
    epoch: float
    time: float
    metrics: Mapping[str, float]


def read_tail(path: Path, num_bytes: int) -> tuple[Sequence[Point], bool]:
    """Returns the points within the last `num_bytes`, none if there is no file, and whether these are all points."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - num_bytes)
            file.seek(start)
            lines = _whole_lines(file.read(num_bytes))
    except FileNotFoundError:
        return (), True
    # The first line may be the end of a longer one.
    points = (_parse(line) for line in lines[1 if start else 0 :])
    return [point for point in points if point is not None], start == 0


class Follower:
    """Returns each point of a file once, even if the file is cut back and written again in between.

    A file that was replaced (another inode) or has shrunk is read again from its start; points returned before are
    recognized by step and time, and skipped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0
        self._given: set[tuple[int, float]] = set()

    def read(self) -> Sequence[Point]:
        """Returns the points added since the last call; none if there is no file."""
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset = status.st_ino, 0
                file.seek(self._offset)
                lines = _whole_lines(file.read())
        except FileNotFoundError:
            return ()
        self._offset += sum(map(len, lines))
        fresh = []
        for line in lines:
            point = _parse(line)
            if point is None:
                _log.warning("%s: skipped an unreadable line", self._path)
            elif (point.step, point.time) not in self._given:
                fresh.append(point)
        self._given.update((point.step, point.time) for point in fresh)
        return fresh


def _whole_lines(text: bytes) -> Sequence[bytes]:
    """Returns the complete lines, with their line ends; the line still being written is left for the next read."""
    return text[: text.rfind(b"\n") + 1].splitlines(keepends=True)


def _parse(line: bytes) -> Point | None:
    """Parses a line; returns None for the torn line of a killed worker, which the stage cuts off when it resumes."""
    try:
        value = parse_json(line)
        return Point(value["step"], value["epoch"], value["time"], value["metrics"])
    except (ValueError, KeyError, TypeError):
        return None
