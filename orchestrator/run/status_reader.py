"""Reads the status of a run again and again, and of its files only those that have changed."""

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestrator.plan import Plan, PredictJob, Stage, StageRef, TrainJob, plan_from_json
from orchestrator.run.holder import is_locked
from orchestrator.run.ledger import Entry, State, read_ledger
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import read_record
from orchestrator.run.status import (
    RunStatus,
    StageStatus,
    find_finished,
    last_error,
    read_course,
    stage_status,
    state_of,
)


def _mark(path: Path) -> tuple[int, ...]:
    """Returns another value when the file is another; each change of it has to replace it."""
    try:
        found = path.stat()
    except OSError:
        # Reading tells what is wrong.
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


class StatusReader:
    """Reads one run's status from its files.

    A plan of a thousand stages takes half a second to read, and each stage has two more files. So run.json and
    ledger.json are read when they have changed, and those of a stage while it runs, or when its history has changed.
    """

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._record = lru_cache(1)(lambda _: read_record(paths))
        self._ledger = lru_cache(1)(lambda _: read_ledger(paths.ledger))
        self._document: Any = None
        self._plan: Plan
        self._known: dict[StageRef, tuple[tuple[Entry, Entry, bool], StageStatus]] = {}

    def read(self) -> RunStatus:
        """Reads run.json, ledger.json, DONE.json files and the ends of the metrics, as far as they may have changed.

        Raises:
            DataError: there is no run directory.
        """
        document = self._record(_mark(self._paths.run_json)).plan
        if document is not self._document and document != self._document:
            self._document, self._plan, self._known = document, plan_from_json(document), {}
        ledger, locked = self._ledger(_mark(self._paths.ledger)), is_locked(self._paths)
        found = []
        for stage in self._plan.stages:
            history = (ledger.entry(TrainJob(stage.ref)), ledger.entry(PredictJob(stage.ref)), locked)
            taught_by = [one.member for one in stage.teachers if ledger.entry(PredictJob(one)).state is not State.done]
            before, status = self._known.get(stage.ref, (None, None))
            if status is None or status.state is State.running or before != history:
                status = self._read_stage(stage, *history)
                self._known[stage.ref] = (history, status)
            is_waiting = status.state is State.waiting
            found.append(replace(status, waits_for=tuple(taught_by)) if taught_by and is_waiting else status)
        state = state_of(ledger.state, locked)
        ends = ledger.budget_ends if state is State.running else None
        left_s = None if ends is None else max(0.0, ends - time.time())
        return RunStatus(self._paths.root.name, state, tuple(found), tuple(ledger.left_out.values()), left_s)

    def _read_stage(self, stage: Stage, entry: Entry, predictions: Entry, locked: bool) -> StageStatus:
        paths, plan = self._paths, self._plan
        course = read_course(paths.metrics(stage.ref), since=entry.attempts[-1].started if entry.attempts else 0.0)
        finished = find_finished(paths, stage)
        status = stage_status(stage, entry=entry, course=course, finished=finished, locked=locked)
        is_last = plan.last_stages[stage.ref.member] == stage.ref
        status = replace(status, may_end_early=status.may_end_early or (bool(plan.rungs) and is_last))
        if is_last and predictions.state is State.failed:
            # Predictions have no line of their own; without this, no line would say why the run failed.
            return replace(status, error=f"predictions: {last_error(predictions)}")
        return status


def read_status(paths: RunPaths) -> RunStatus:
    """Reads the status once; raises DataError if there is no run directory at `paths`."""
    return StatusReader(paths).read()
