"""What of a launch's wall clock was not a member's own work, from the files of its run directory.

A member's work is, of a stage, from its line "from update …" in log.txt to its last point in metrics.jsonl (training
and the errors after each epoch); of its predictions, from the attempt's start in ledger.json to the last file. Two
definitions, since a slot that idles for want of a ready stage is no overhead of the orchestrator's:

- of the critical path: from the end backwards, each piece of work and the one that ended last before it began; what of
  the wall clock lies between them, before the first and after the last;
- of all slots: 1 − work / (slots × wall clock); it holds the idle ends of an uneven schedule as well.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.scripts import Launched
from orchestrator.run import PREDICTIONS, RunPaths, read_ledger

# Work that begins this soon after another's end followed it: log.txt has milliseconds.
_ROUNDING_S = 0.002


@dataclass(frozen=True)
class Work:
    """From `start` to `end`, unix seconds."""

    start: float
    end: float


def work_of(run_dir: Path) -> list[Work]:
    """Every stage and prediction of a run that was launched once and not interrupted."""
    paths = RunPaths(run_dir)
    works = []
    for name, entry in read_ledger(paths.ledger).stages.items():
        member, _, stage = name.partition("/")
        if stage == PREDICTIONS:
            written = [path.stat().st_mtime for path in paths.predictions(member).glob("*.json")]
            works.append(Work(entry.attempts[-1].started, max(written)))
        else:
            folder = paths.member(member) / stage
            works.append(Work(_first_line(folder / "log.txt"), _last_point(folder / "metrics.jsonl")))
    return works


def _first_line(log: Path) -> float:
    line = next(line for line in log.read_text().splitlines() if "from update" in line)
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


def _last_point(metrics: Path) -> float:
    time: float = json.loads(metrics.read_text().splitlines()[-1])["time"]
    return time


def share_of_critical_path(works: list[Work], began: float, ended: float) -> float:
    """The share of the wall clock in which the path to the end waited for no member."""
    working, reached, left = 0.0, ended, works
    while left := [work for work in left if work.end <= reached + _ROUNDING_S]:
        last = max(left, key=lambda work: work.end)
        working += last.end - last.start
        reached = last.start
        left.remove(last)
    return 1 - working / (ended - began)


def share_of_slots(works: list[Work], began: float, ended: float, slots: int) -> float:
    """The share of all slots' time in which no member worked."""
    return 1 - sum(work.end - work.start for work in works) / (slots * (ended - began))


def slots_used(works: list[Work]) -> int:
    """The most that ever worked at once."""
    return max(sum(one.start <= other.start < one.end for one in works) for other in works)


def shares(launched: Launched) -> tuple[float, float]:
    """Of the critical path, and of all slots."""
    works = work_of(launched.run_dir)
    return (
        share_of_critical_path(works, launched.began, launched.ended),
        share_of_slots(works, launched.began, launched.ended, slots_used(works)),
    )
