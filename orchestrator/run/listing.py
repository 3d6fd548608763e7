"""Lists the runs below a folder, from their files alone: takes no lock."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.plan import plan_from_json
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import read_record
from orchestrator.run.status import read_status
from orchestrator.text import size
from workers.errors import DataError, SeptetError
from workers.storage import parse_json


@dataclass(frozen=True)
class Listed:
    """One run; unknown values are None.

    `top1_error` is the ensemble's in scores.json, in [0, 1]; `created` is in Unix seconds; `problem` says why the run
    cannot be read.
    """

    path: str
    size_bytes: int
    state: str | None = None
    num_members: int | None = None
    top1_error: float | None = None
    created: float | None = None
    problem: str | None = None


def list_runs(folder: Path) -> tuple[Listed, ...]:
    """Returns the run directories in and below `folder`, by path; only links to run directories are followed.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the one that your runs are in, as in `septet list FOLDER`")
    return tuple(sorted(_found(folder), key=lambda run: run.path))


def _found(folder: Path) -> Iterator[Listed]:
    closed: list[OSError] = []
    for place, inner, files in os.walk(folder, onerror=closed.append):
        if "run.json" in files:
            inner.clear()
            yield _read(RunPaths(Path(place)))
        for name in inner:
            linked = Path(place, name)
            if linked.is_symlink() and (linked / "run.json").is_file():
                yield _read(RunPaths(linked))
    yield from (Listed(str(error.filename), 0, problem=f"cannot be read ({error.strerror})") for error in closed)


def _read(paths: RunPaths) -> Listed:
    num_bytes = _size(paths.root)
    try:
        record = read_record(paths)
        scores = parse_json(paths.report_scores.read_bytes()) if paths.report_scores.exists() else {"ensemble": {}}
        return Listed(
            path=str(paths.root),
            size_bytes=num_bytes,
            state=read_status(paths).state,
            num_members=len(plan_from_json(record.plan).members),
            top1_error=scores["ensemble"].get("top1_error"),
            created=record.created,
        )
    except (SeptetError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Listed(str(paths.root), num_bytes, problem=f"cannot be read ({' '.join(str(error).split())})")


def _size(root: Path) -> int:
    num_bytes = 0
    for place, _, files in os.walk(root):
        for name in files:
            # A launch may delete it meanwhile.
            with suppress(OSError):
                num_bytes += Path(place, name).lstat().st_size
    return num_bytes


def listing_json(runs: tuple[Listed, ...]) -> list[dict[str, Any]]:
    """Returns the document of `septet list --json`."""
    return [asdict(run) for run in runs]


def listing_lines(runs: tuple[Listed, ...]) -> Iterator[str]:
    """Yields a line a run: path, state, members, the ensemble's top-1 error, size and date of the first launch."""
    rows = [("run", "state", "members", "error", "size", "began"), *map(_cells, runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, run in zip(rows, (None, *runs), strict=True):
        problem = f"  {run.problem}" if run and run.problem else ""
        yield "  ".join(map(str.ljust, row, widths)).rstrip() + problem


def _cells(run: Listed) -> tuple[str, ...]:
    return (
        run.path,
        run.state or "-",
        "-" if run.num_members is None else str(run.num_members),
        "-" if run.top1_error is None else f"{run.top1_error:.2%}",
        size(run.size_bytes),
        "-" if run.created is None else f"{datetime.fromtimestamp(run.created):%Y-%m-%d %H:%M}",
    )
