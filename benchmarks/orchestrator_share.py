"""Computes the share of a launch's wall clock that was not a member's own work, from the files of its run directory.

A member's work on a stage lasts from its line "from update …" in log.txt to its last point in metrics.jsonl (training
and the errors after each epoch). Its work on predictions lasts from the attempt's start in ledger.json to the last
file. There are two definitions, because a slot that waits for a ready stage is not overhead of the orchestrator:

- of the critical path: start from the end and go back, at each step to the piece of work that ended last before the
  current one began; the share is the wall clock between these pieces, before the first and after the last;
- of all slots: 1 − work / (slots × wall clock); it includes the idle ends of an uneven schedule.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.scripts import Launched
from orchestrator.plan import StageRef
from orchestrator.run import RunPaths, read_ledger

# Work that begins this soon after another's end counts as following it, because log.txt has milliseconds.
_ROUNDING_S = 0.002


@dataclass(frozen=True)
class Work:
    """A piece of a member's work, from `start` to `end` in unix seconds."""

    start: float
    end: float


def work_of(run_dir: Path) -> list[Work]:
    """Returns every stage and prediction of a run that was launched once and not interrupted."""
    paths = RunPaths(run_dir)
    ledger = read_ledger(paths.ledger)
    refs = map(StageRef.parse, ledger.stages)
    works = [Work(first_line(paths.log(ref)), _last_point(paths.metrics(ref))) for ref in refs]
    for member, entry in ledger.predictions.items():
        written = [path.stat().st_mtime for path in paths.predictions(member).glob("*.json")]
        works.append(Work(entry.attempts[-1].started, max(written)))
    return works


def first_line(log: Path) -> float:
    """Returns when a stage's first update began, in unix seconds."""
    line = next(line for line in log.read_text().splitlines() if "from update" in line)
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


def _last_point(metrics: Path) -> float:
    time: float = json.loads(metrics.read_text().splitlines()[-1])["time"]
    return time


def share_of_critical_path(works: list[Work], began: float, ended: float) -> float:
    """Returns the share of the wall clock in which the critical path waited for no member."""
    working, reached, left = 0.0, ended, works
    while left := [work for work in left if work.end <= reached + _ROUNDING_S]:
        last = max(left, key=lambda work: work.end)
        working += last.end - last.start
        reached = last.start
        left.remove(last)
    return 1 - working / (ended - began)


def share_of_slots(works: list[Work], began: float, ended: float, slots: int) -> float:
    """Returns the share of all slots' time in which no member worked."""
    return 1 - sum(work.end - work.start for work in works) / (slots * (ended - began))


def slots_used(works: list[Work]) -> int:
    """Returns the largest number of members that worked at once."""
    return max(sum(one.start <= other.start < one.end for one in works) for other in works)


def shares(launched: Launched) -> tuple[float, float]:
    """Returns the shares of the critical path and of all slots."""
    works = work_of(launched.run_dir)
    return (
        share_of_critical_path(works, launched.began, launched.ended),
        share_of_slots(works, launched.began, launched.ended, slots_used(works)),
    )
