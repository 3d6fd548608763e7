"""metrics.jsonl: the truth about a stage's course, one JSON object a line."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from workers.atomic import storage_errors, write_bytes


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


def cut_back(path: Path, step: int) -> None:
    """Drops the points after `step`, and a torn last line: a resumed stage writes them anew."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            point = json.loads(line)
        except ValueError:
            continue
        if line.endswith(b"\n") and point["step"] <= step:
            kept.append(line)
    write_bytes(path, b"".join(kept))
