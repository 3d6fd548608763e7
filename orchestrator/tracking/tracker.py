"""Turns what a launch tells the tracker into work for the sender; no verb waits for the store.

The ensemble has a parent run, each member a child, each stage a grandchild; the tag `septet.run` finds them again. Only
the driver writes: if seven processes open a new SQLite store at once, up to seven fail (measured).
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.config import TrackingConfig
from orchestrator.plan import Plan, StageRef
from orchestrator.text import redact
from orchestrator.tracking.mlflow_store import About, DatasetInput, Point, RunKey, Store
from orchestrator.tracking.models import Models
from orchestrator.tracking.params import DIFFER, stage_params
from orchestrator.tracking.sender import REFUSED_S, Pace, Sender, Task
from orchestrator.tracking.uri import is_local, sqlite_path, unreachable
from workers.load import read_load

T = TypeVar("T")
_log = logging.getLogger(__name__)

CLOSE_S = 10.0  # the end of a run waits this long for a store that does not answer
_STOP_S = 5.0  # after a signal: a supervisor may kill the launch 10 s after SIGTERM
_ANSWER_S = 7.0  # the interface promises an end within 10 s, of which importing MLflow takes one or two
_CREATE_S = 60.0  # a new SQLite store takes 2–5 s, more on a busy machine
_UPLOAD_S = 300.0  # for a large artifact, while the store answers
_ARTIFACT_ATTEMPTS = 3  # artifacts may have another store, whose outage must not delay the rest


class Ending(StrEnum):
    """Says how a run ended, in MLflow's words."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


@dataclass(frozen=True)
class RunIdentity:
    """Identifies a run: `run_id` is the UUID of run.json, `name` is for people. A resumed run is not `new`."""

    run_id: str
    experiment: str
    plan_hash: str
    name: str
    new: bool = True


class Tracker:
    """Logs a launch. Its verbs return at once and may be repeated, from any thread.

    `wait_until_open`, `with_models` and `close` wait for the store, which opens in the background.
    """

    def __init__(
        self,
        config: TrackingConfig,
        run: RunIdentity,
        plan: Plan,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        pace: Pace | None = None,
    ) -> None:
        """Begins to open the store at the absolute `config.uri`, where it finds or makes the parent run.

        `params` are short values by which people compare ensembles; they never change. A later launch replaces `tags`.
        """
        self._uri = uri = config.uri
        self._needed = run.new and config.required
        self._is_made = (path := sqlite_path(uri)) is not None and not path.exists()
        self._is_abandoned = False
        self._run = run
        self._plan = plan
        self._begins = _begins(plan)
        self._params = {name: str(value) for name, value in params.items()}
        self._tags = {**tags, "septet.plan": run.plan_hash}
        self._datasets: dict[str, DatasetInput] = {}
        self._known: set[StageRef] = set()
        self._began_ms = _now_ms()
        self._opened = threading.Event()
        self._store = Store(uri, run.experiment, run.run_id)
        self._sender = Sender(self._store.add_points, redact(uri), self._sample, pace)
        self._sender.submit(Task(self._open, "the ensemble's run", vital=True, quiet=True))
        columns = [name for name, text in self._params.items() if DIFFER in text]
        self._submit(lambda: self._store.show(run.name, columns), "a saved view of its members")

    @property
    def ids(self) -> dict[str, Any]:
        """Returns what run.json keeps, as far as known: uri, experiment_id, run_id (of the parent), members, stages."""
        return self._store.ids

    def wait_until_open(self) -> None:
        """Waits for the store, at most 10 s unless it is a file that is needed or has to be made.

        Raises:
            ConfigError: the run is new, the store is required, and it does not answer; nothing more is sent.
        """
        longest_s, refused_s = _ANSWER_S, REFUSED_S
        if is_local(self._uri):  # another process may hold the database for some seconds
            longest_s, refused_s = _CREATE_S if self._needed or self._is_made else _ANSWER_S, _ANSWER_S
        problem = self._sender.wait_for(self._opened, longest_s, refused_s)
        if problem and self._needed:
            self.abandon()
            raise unreachable(self._uri, problem)
        if problem:
            where = redact(self._uri)
            _log.warning("MLflow at %s: %s; training continues, and metrics are sent when it answers", where, problem)

    def abandon(self) -> None:
        """Stops sending; nothing more reaches the store, and nobody waits for it."""
        self._is_abandoned = True
        self._sender.stop()

    def set_datasets(self, datasets: Mapping[str, DatasetInput]) -> None:
        """Adds the prepared datasets, by their configured names, to the parent run and to stages that start later."""
        self._datasets = dict(datasets)
        inputs = tuple(self._datasets.values())
        self._submit(lambda: self._store.add_inputs(RunKey(), inputs), "the datasets")

    def stage_started(self, ref: StageRef) -> None:
        """Sets the runs of the stage and of its member RUNNING."""
        self._make_known(ref, _now_ms())

        def start() -> None:
            self._store.resume(RunKey(ref.member))
            self._store.resume(_key(ref))

        self._submit(start, "the start of a stage")

    def log(self, ref: StageRef, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Logs metrics at an update count, measured at `time_s` (Unix clock); known ones add nothing.

        The member has them too, where the updates of its stages are counted on from one to the next.
        """
        time_ms, values = int(time_s * 1000), dict(metrics)
        self._make_known(ref, time_ms)
        self._sender.add(Point(_key(ref), step, time_ms, values))
        self._sender.add(Point(RunKey(ref.member), self._begins[ref] + step, time_ms, values))

    def stage_finished(self, ref: StageRef, status: str, tags: Mapping[str, str] | None = None) -> None:
        """Ends the stage's run; also its member's, if all stages are finished or this one is not."""
        now_ms = _now_ms()
        self._make_known(ref, now_ms)
        own = dict(tags or {})
        siblings = [_key(stage.ref) for stage in self._plan.stages_of(ref.member)]

        def finish() -> None:
            self._store.tag(_key(ref), own)
            self._store.end(_key(ref), status, now_ms)
            statuses = {self._store.status(key) for key in siblings}
            if status != "FINISHED" or statuses == {"FINISHED"}:
                self._store.end(RunKey(ref.member), status, now_ms)

        self._submit(finish, "the end of a stage")

    def tag(self, ref: StageRef, key: str, value: str) -> None:
        self._make_known(ref, _now_ms())
        self._submit(lambda: self._store.tag(_key(ref), {key: value}), "a tag")

    def log_scores(self, scores: Mapping[str, float], member: str = "") -> None:
        """Logs final scores (`test/top1_error` …) of a member, or of the ensemble on the parent run."""
        values, now_ms = dict(scores), _now_ms()
        self._submit(lambda: self._store.set_scores(RunKey(member), values, now_ms), "scores")

    def log_by_members(self, curves: Mapping[str, Sequence[float]]) -> None:
        """Logs the ensemble's errors with its first 1, 2, … finished members, by metric."""
        values, now_ms = {f"by_members/{name}": tuple(curve) for name, curve in curves.items()}, _now_ms()
        self._submit(lambda: self._store.add_curves(RunKey(), values, now_ms), "errors by members")

    def describe(self, text: str) -> None:
        """Makes Markdown the ensemble's description."""
        self._submit(lambda: self._store.describe(text), "the description")

    def tag_ensemble(self, tags: Mapping[str, str]) -> None:
        own = dict(tags)
        self._submit(lambda: self._store.tag(RunKey(), own), "tags of the ensemble")

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copies a file or a folder's content to the parent run; it must stay until `close`."""
        self._submit(
            lambda: self._store.add_artifact(RunKey(), path, folder), f"artifact {path.name}", _ARTIFACT_ATTEMPTS
        )

    def with_models(self, what: str, work: Callable[[Models], T]) -> T | None:
        """Waits until `work` on the run's models is done; returns None if the store is down or refuses it."""
        found: list[T] = []
        self._submit(lambda: found.append(work(self._store.models)), what, _ARTIFACT_ATTEMPTS)
        self._drain(CLOSE_S, _UPLOAD_S)
        return found[0] if found else None

    def close(self, status: str) -> None:
        """Ends the parent run and every open run; waits for a store that is down for 10 s, after a signal for 5."""
        if self._is_abandoned:
            return
        now_ms = _now_ms()

        def finish() -> None:
            self._store.drop_doubles()
            for key in sorted(self._store.keys(), key=lambda key: (not key.stage, not key.member)):
                if key == RunKey() or self._store.status(key) == "RUNNING":
                    self._store.end(key, status, now_ms)

        self._submit(finish, "the end of the run")
        try:
            wait_s, upload_s = (min(CLOSE_S, _STOP_S), 0.0) if status == Ending.KILLED else (CLOSE_S, _UPLOAD_S)
            self._drain(wait_s, upload_s)
        finally:  # also after Ctrl-C
            num_left_out, num_waiting = self._sender.flush(0.0), self._sender.num_waiting
            self._sender.stop()
            if num_left_out or num_waiting:
                _log.warning(
                    "MLflow at %s lacks the end of this run and %d metric values; metrics.jsonl has them: launch again "
                    "to send them",
                    redact(self._uri),
                    num_left_out,
                )

    def _drain(self, wait_s: float, upload_s: float) -> None:
        self._sender.flush(wait_s)
        until = time.monotonic() + upload_s
        while self._sender.is_progressing(CLOSE_S) and time.monotonic() < until:
            self._sender.flush(1.0)

    def _open(self) -> None:
        self._store.open()
        about = About(self._run.name, self._params, self._tags)
        self._store.ensure(RunKey(), about, self._began_ms)
        self._store.resume(RunKey())
        read_load()  # the next one tells of the time in between
        self._opened.set()

    def _make_known(self, ref: StageRef, started_ms: int) -> None:
        if ref in self._known:
            return
        self._known.add(ref)
        stage = self._plan.stage(ref)
        tags = {"septet.plan": self._run.plan_hash}
        about_member = About(ref.member, stage_params(self._plan.last_stage(ref.member)), tags)
        about_stage = About(f"{ref.member}/{ref.stage}", stage_params(stage), tags | {"septet.stage_hash": stage.hash})
        inputs = [self._datasets[stage.recipe.dataset]] if stage.recipe.dataset in self._datasets else []

        def ensure() -> None:
            self._store.ensure(RunKey(ref.member), about_member, started_ms)
            self._store.ensure(_key(ref), about_stage, started_ms)
            for key in (RunKey(ref.member), _key(ref)):
                self._store.add_inputs(key, inputs)

        # Vital: everything logged later needs this run.
        self._submit(ensure, f"the run of {ref}", vital=True)

    def _submit(self, work: Callable[[], None], what: str, attempts: int = 0, vital: bool = False) -> None:
        self._sender.submit(Task(work, what, attempts, vital))

    def _sample(self) -> Point | None:
        if not self._opened.is_set():
            return None
        # Seconds since the run began, so that the load of a resumed run continues the curve.
        now_ms = _now_ms()
        step = max(0, now_ms - self._store.started_ms(RunKey())) // 1000
        return Point(RunKey(), step, now_ms, read_load())


def _begins(plan: Plan) -> dict[StageRef, int]:
    """Returns the updates that each stage's member plans to have made before it."""
    begins, made = dict[StageRef, int](), Counter[str]()
    for stage in sorted(plan.stages, key=lambda stage: len(plan.ancestors(stage))):
        begins[stage.ref] = made[stage.ref.member]
        made[stage.ref.member] += stage.num_updates
    return begins


def _key(ref: StageRef) -> RunKey:
    return RunKey(ref.member, ref.stage)


def _now_ms() -> int:
    return int(time.time() * 1000)
