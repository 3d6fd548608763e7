"""Writes metrics.jsonl, one JSON object a line, and step.txt, the number of updates made so far."""

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from workers.storage import nothing, parse_json, storage_errors, write_bytes

# Marks the point at a stage's end that has the errors of averaged weights.
AVERAGED = "averaged"


class MetricsLog:
    """Appends points; each reaches the file at once, and `sync` makes them durable before a checkpoint is committed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")

    def append(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        point = {"step": step, "epoch": round(epoch, 6), "time": round(time.time(), 3), "metrics": dict(metrics)}
        with storage_errors(self._path):
            self._file.write(json.dumps(point, allow_nan=False) + "\n")
            self._file.flush()

    def sync(self) -> None:
        with storage_errors(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class StepMark:
    """Keeps step.txt: the number of updates made, overwritten in place after each one (1 µs).

    Metrics are rarer, so after a kill this file says exactly how many updates were lost. It needs no fsync: the page
    cache outlives the process, and a lost machine is not counted to the last update.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def set(self, step: int) -> None:
        with storage_errors(self._path):
            os.pwrite(self._descriptor, f"{step:012d}\n".encode(), 0)

    def beat(self) -> None:
        """Updates the file's time only (`workers.storage.heartbeat`)."""
        with storage_errors(self._path):
            os.utime(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def read_step(path: Path) -> int:
    """Returns the number of updates in `step.txt`; 0 if there is no such file."""
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return 0


def cut_back(path: Path, step: int, check: Callable[[], None] = nothing) -> None:
    """Drops the points after `step`, that of averaged weights and a torn last line: a resumed stage writes them again.

    It always puts another file under the name, even if nothing is dropped: an attempt that still has the old file open
    then writes into a file without a name. `check` is as in `atomic.replacing`.
    """
    if not path.exists():
        return
    kept = []
    with storage_errors(path):
        lines = path.read_bytes().splitlines(keepends=True)
    for line in lines:
        # Else it is torn, or not one of our lines.
        with suppress(ValueError, KeyError, TypeError):
            point = parse_json(line)
            if line.endswith(b"\n") and point["step"] <= step and AVERAGED not in point["metrics"]:
                kept.append(line)
    write_bytes(path, b"".join(kept), check)
