"""Lists the runs below a folder, from their files alone: takes no lock."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from orchestrator.run.paths import RunPaths
from orchestrator.run.record import read_record
from orchestrator.run.status_reader import read_status
from orchestrator.text import size, table
from workers.errors import DataError, SeptetError
from workers.storage import parse_json

_HEADER = ("run", "state", "members", "error", "size", "began", "")


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
    """Returns the runs in and below `folder`, by path, and folders that cannot be looked into; follows links to runs.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the one that your runs are in, as in `septet list FOLDER`")
    closed: list[OSError] = []
    name = RunPaths(folder).run_json.name
    roots = {Path(place) for place, _, files in os.walk(folder, onerror=closed.append) if name in files}
    roots |= {path.parent for path in folder.glob(f"*/{name}")}
    shut = (Listed(str(error.filename), 0, problem=f"cannot be read ({error.strerror})") for error in closed)
    return tuple(sorted((*map(_read, roots), *shut), key=lambda run: run.path))


def _read(root: Path) -> Listed:
    paths, num_bytes = RunPaths(root), 0
    for place, _, files in os.walk(root):
        for name in files:
            # A launch may delete it meanwhile.
            with suppress(OSError):
                num_bytes += Path(place, name).lstat().st_size
    try:
        status, scores = read_status(paths), paths.report_scores
        error = parse_json(scores.read_bytes())["ensemble"]["top1_error"] if scores.exists() else None
        record = read_record(paths)
        return Listed(str(root), num_bytes, status.state, len(record.plan["members"]), error, record.created)
    except (SeptetError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Listed(str(root), num_bytes, problem=f"cannot be read ({' '.join(str(error).split())})")


def listing_lines(runs: Sequence[Listed]) -> list[str]:
    """Returns a line a run: path, state, members, the ensemble's top-1 error, size and date of the first launch."""
    return table([_HEADER, *map(_cells, runs)], len(_HEADER))


def _cells(run: Listed) -> tuple[str, ...]:
    error = "-" if run.top1_error is None else f"{run.top1_error:.2%}"
    began = "-" if run.created is None else f"{datetime.fromtimestamp(run.created):%Y-%m-%d %H:%M}"
    members = str(run.num_members or "-")
    return (run.path, run.state or "-", members, error, size(run.size_bytes), began, run.problem or "")
