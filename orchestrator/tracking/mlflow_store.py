"""Calls MLflow; no other module does. A `Store` offers idempotent operations on the runs of one ensemble.

A run is named by a `RunKey`, not by an MLflow id: each operation looks for the run (tag `septet.run`) before it makes
one, so it may be repeated after a failure or a restart of the driver. Nothing here is thread-safe: the sender's thread
makes all calls. mlflow is imported when a store is opened, since that takes 1.5 s.
"""

import getpass
import json
import logging
import math
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.text import redact
from orchestrator.tracking.connection import connect
from orchestrator.tracking.models import Models
from orchestrator.tracking.uri import artifact_root
from orchestrator.tracking.view import TRAINING_PAGES, VIEW_TAG, make_view
from workers.errors import ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

T = TypeVar("T")

# Without this tag the UI shows our experiments as evaluations of language models.
_KIND_TAG, _MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"
_MAX_METRICS = 1000  # MLflow's own limits of one log_batch
_MAX_PARAMS_OR_TAGS = 100
_MAX_DIGEST = 36
_MAX_NOTE = 5000
_NOTE_TAG = "mlflow.note.content"
_PAGE = 1000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunKey:
    """Names a run: `RunKey()` is the parent, `RunKey(member)` a member, `RunKey(member, stage)` a stage."""

    member: str = ""
    stage: str = ""

    @property
    def role(self) -> str:
        """Returns the value of the tag `septet.role`."""
        return "stage" if self.stage else "member" if self.member else "ensemble"

    @property
    def parent(self) -> "RunKey":
        """Returns the run that this one is nested in; the ensemble's run is its own parent."""
        return RunKey(self.member) if self.stage else RunKey()


@dataclass(frozen=True)
class Point:
    """Holds metrics of one run at one update count, and the time of measurement (Unix clock, milliseconds)."""

    key: RunKey
    step: int
    time_ms: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class DatasetInput:
    """Describes a dataset for the dataset column of the UI."""

    name: str
    digest: str
    source: str = ""


@dataclass(frozen=True)
class About:
    """Describes a run for people: its name, parameters and tags."""

    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass
class _Entry:
    id: str
    status: str
    started_ms: int
    params: frozenset[str]
    seen: dict[str, set[int]] | None  # steps in the store, by metric; None if not read yet


class Store:
    """Works on the runs of one ensemble in one MLflow store.

    Args:
        uri: absolute tracking URI.
        experiment: name of the MLflow experiment.
        run: the run's UUID; its MLflow runs have it as a tag.
    """

    def __init__(self, uri: str, experiment: str, run: str) -> None:
        self.uri = uri
        self._experiment = experiment
        self._run = run
        self._experiment_id = ""
        self._entries: dict[RunKey, _Entry] = {}
        self._client: MlflowClient  # set by `open`
        # Runs of which a creation went unanswered.
        self._in_doubt = frozenset[RunKey]()
        self._view = ""

    @property
    def ids(self) -> dict[str, Any]:
        """Returns known ids: `{"experiment_id", "run_id", "members": {…}, "stages": {"member/stage": …}, "view"}`."""
        entries = dict(self._entries)  # a copy: the sender may add one meanwhile
        parent = entries.get(RunKey())
        return {
            "uri": redact(self.uri),
            "experiment_id": self._experiment_id,
            "run_id": parent.id if parent else "",
            "members": {key.member: entry.id for key, entry in entries.items() if key.role == "member"},
            "stages": {f"{key.member}/{key.stage}": entry.id for key, entry in entries.items() if key.stage},
            "view": self._view,
        }

    def open(self) -> None:
        """Connects, finds or makes the experiment, and closes runs that a killed driver left RUNNING.

        Raises:
            ConfigError: the database cannot be written, or the experiment is deleted in MLflow.
        """
        self._client = connect(self.uri)
        found = self._client.get_experiment_by_name(self._experiment) or self._new_experiment()
        if found.lifecycle_stage != "active":
            raise ConfigError(
                f"the experiment {self._experiment} is deleted in MLflow; restore it with "
                f"`mlflow experiments restore --experiment-id {found.experiment_id}`, or set another name"
            )
        self._experiment_id = found.experiment_id
        self._find_all()
        for key, entry in self._entries.items():
            if key.role != "ensemble" and entry.status == "RUNNING":
                self._set_status(entry, "KILLED")

    def ensure(self, key: RunKey, about: About, started_ms: int) -> None:
        """Finds or makes a run and adds the parameters it lacks (they are immutable); its parent must exist."""
        client = self._client
        if key not in self._entries and key in self._in_doubt:
            self._find_all()  # it reads all runs, so only then
        if key not in self._entries:
            own = {"mlflow.user": _user(), "mlflow.source.type": "LOCAL", "mlflow.source.name": "septet"}
            own |= {"septet.run": self._run, "septet.role": key.role}
            own |= {"septet.member": key.member} if key.member else {}
            own |= {"septet.stage": key.stage} if key.stage else {}
            if key.role != "ensemble":
                own["mlflow.parentRunId"] = self._entries[key.parent].id
            in_doubt, self._in_doubt = self._in_doubt, self._in_doubt | {key}
            run = client.create_run(self._experiment_id, start_time=started_ms, tags=own, run_name=about.name)
            self._in_doubt = in_doubt
            self._entries[key] = _Entry(run.info.run_id, "RUNNING", started_ms, frozenset(), {})
        self._add_params(self._entries[key], about.params)
        self.tag(key, about.tags)

    def drop_doubles(self) -> None:
        """Deletes runs that were made twice, if any are found.

        A slow proxy may deliver a creation that was given up after the one that replaced it.
        """
        if self._in_doubt:
            self._find_all()

    def resume(self, key: RunKey) -> None:
        """Sets a run RUNNING."""
        if self._entries[key].status != "RUNNING":
            self._set_status(self._entries[key], "RUNNING")

    def end(self, key: RunKey, status: str, ended_ms: int) -> None:
        """Closes a run as FINISHED, FAILED or KILLED; a run with that status keeps its end time."""
        entry = self._entries[key]
        if entry.status != status:
            self._client.set_terminated(entry.id, status, ended_ms)
            entry.status = status

    def started_ms(self, key: RunKey) -> int:
        """Returns when the run began, in milliseconds of the Unix clock."""
        return self._entries[key].started_ms

    def keys(self) -> tuple[RunKey, ...]:
        """Returns the runs that are known to be in the store."""
        return tuple(self._entries)

    def status(self, key: RunKey) -> str:
        """Returns the last known status of a run; an empty text if there is no such run."""
        return self._entries[key].status if key in self._entries else ""

    def tag(self, key: RunKey, tags: Mapping[str, str]) -> None:
        """Sets tags and replaces their values."""
        from mlflow.entities import RunTag

        for part in _parts([RunTag(name, value) for name, value in tags.items()], _MAX_PARAMS_OR_TAGS):
            self._client.log_batch(self._entries[key].id, tags=part)

    def add_points(self, points: Iterable[Point]) -> None:
        """Adds points, without each (metric, step) that the store has: replayed metrics add nothing."""
        by_key: dict[RunKey, list[Point]] = {}
        for point in points:
            by_key.setdefault(point.key, []).append(point)
        for key, own in by_key.items():
            self._add_points(self._entries[key], own)

    def set_scores(self, key: RunKey, scores: Mapping[str, float], time_ms: int) -> None:
        """Logs final values at step 0; an equal value is not logged again, a different one takes the next step."""
        from mlflow.entities import Metric

        entry = self._entries[key]
        held = self._client.get_run(entry.id).data.metrics
        new = [
            Metric(name, value, time_ms, self._next_step(entry, name) if name in held else 0)
            for name, value in scores.items()
            if not (name in held and _same(held[name], value))
        ]
        for part in _parts(new, _MAX_METRICS):
            self._client.log_batch(entry.id, metrics=part)

    def add_curves(self, key: RunKey, curves: Mapping[str, Sequence[float]], time_ms: int) -> None:
        """Logs each curve's values at steps 1, 2, …, but for those steps that the store has."""
        entry, named = self._entries[key], [(name, *each) for name in curves for each in enumerate(curves[name], 1)]
        if entry.seen is not None:
            entry.seen |= self._steps(entry.id, curves)
        self._add_points(entry, [Point(key, step, time_ms, {name: value}) for name, step, value in named])

    def describe(self, text: str) -> None:
        """Makes links to results, and Markdown, the ensemble's description, unless a person wrote another."""
        run_id, known = self._entries[RunKey()].id, "[Report]("
        if not self._client.get_run(run_id).data.tags.get(_NOTE_TAG, known).startswith(known):
            return
        pages = f"#/experiments/{self._experiment_id}/runs/{run_id}/artifacts/{{}}?{TRAINING_PAGES}".format
        note = f"{known}{pages('report/index.html')}) · [Submission]({pages('submission')})\n\n{text}"
        self.tag(RunKey(), {_NOTE_TAG: note[:_MAX_NOTE]})

    def show(self, name: str, params: Iterable[str]) -> None:
        """Saves the view of this ensemble and its members under the id of its run."""
        parent = self._entries[RunKey()]
        view = make_view(name, self._run, params, parent.started_ms)
        self._client.set_experiment_tag(self._experiment_id, f"{VIEW_TAG}{parent.id}", view)
        self._view = parent.id

    def add_inputs(self, key: RunKey, datasets: Iterable[DatasetInput]) -> None:
        """Adds the datasets that a run uses; the whole digest is a tag, since MLflow keeps 36 characters."""
        from mlflow import entities

        datasets = tuple(datasets)
        inputs = [
            entities.DatasetInput(
                entities.Dataset(each.name, each.digest[:_MAX_DIGEST], "local", json.dumps({"uri": each.source})),
                [entities.InputTag("mlflow.data.context", "training")],
            )
            for each in datasets
        ]
        if inputs:
            self._client.log_inputs(self._entries[key].id, inputs)
            self.tag(key, {f"septet.dataset.{each.name}": each.digest for each in datasets})

    def add_artifact(self, key: RunKey, path: Path, folder: str | None) -> None:
        """Copies a file, or the content of a folder, into `folder` of the run's artifacts."""
        send = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        send(self._entries[key].id, str(path), folder)

    @property
    def models(self) -> Models:
        """Returns the logged models of the ensemble and its members."""
        runs = {key.member: one.id for key, one in self._entries.items() if not key.stage}
        return Models(self._client, self._experiment_id, runs)

    def _new_experiment(self) -> "Experiment":
        from mlflow import MlflowException

        client, root = self._client, artifact_root(self.uri)
        try:
            # Absolute: MLflow's default depends on the working directory.
            client.create_experiment(self._experiment, root.as_uri() if root else None, {_KIND_TAG: _MODEL_TRAINING})
        except MlflowException as error:
            # Another first launch may have made it meanwhile.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(self._experiment)
        assert found is not None, "it exists, since it was just made or found"
        return found

    def _find_all(self) -> None:
        token: str | None = None
        found: list[Run] = []
        while True:
            page = self._client.search_runs(
                [self._experiment_id],
                f"tags.`septet.run` = '{self._run}'",
                max_results=_PAGE,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                break
        # Of two runs with one key, keep the one with content: the answer to the other's creation was lost.
        for run in sorted(found, key=lambda run: (-len(run.data.metrics), -len(run.data.params), run.info.start_time)):
            key = RunKey(run.data.tags.get("septet.member", ""), run.data.tags.get("septet.stage", ""))
            if (entry := self._entries.get(key)) is not None:
                if run.info.run_id != entry.id and not run.data.metrics:
                    self._client.delete_run(run.info.run_id)
                    _log.info("MLflow run %s was a copy of %s and is deleted", run.info.run_id, entry.id)
            else:
                # The parent's points, the machine's load, are never replayed: no need to read them.
                seen: dict[str, set[int]] | None = None if key.member else {}
                info = run.info
                self._entries[key] = _Entry(info.run_id, info.status, info.start_time, frozenset(run.data.params), seen)

    def _next_step(self, entry: _Entry, name: str) -> int:
        return 1 + max(metric.step for metric in self._client.get_metric_history(entry.id, name))

    def _steps(self, run_id: str, names: Iterable[str] | None = None) -> dict[str, set[int]]:
        """Returns the steps of metrics, of all by default; not only the last, since an outage may leave a gap."""
        held = self._client.get_run(run_id).data.metrics
        wanted = held if names is None else held.keys() & names
        return {name: {one.step for one in self._client.get_metric_history(run_id, name)} for name in wanted}

    def _set_status(self, entry: _Entry, status: str) -> None:
        self._client.update_run(entry.id, status=status)
        entry.status = status

    def _add_params(self, entry: _Entry, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        new = [Param(name, value) for name, value in params.items() if name not in entry.params]
        for part in _parts(new, _MAX_PARAMS_OR_TAGS):
            self._client.log_batch(entry.id, params=part)
        entry.params |= {param.key for param in new}

    def _add_points(self, entry: _Entry, points: list[Point]) -> None:
        from mlflow.entities import Metric

        if entry.seen is None:
            entry.seen = self._steps(entry.id)
        new: dict[tuple[str, int], Metric] = {}
        for point in points:
            for name, value in point.metrics.items():
                if point.step not in entry.seen.get(name, ()):
                    new.setdefault((name, point.step), Metric(name, value, point.time_ms, point.step))
        seen = entry.seen
        for part in _parts(list(new.values()), _MAX_METRICS):
            # If the answer is lost, the steps are unknown and are read again before anything is resent.
            entry.seen = None
            self._client.log_batch(entry.id, metrics=part)
            for metric in part:
                seen.setdefault(metric.key, set()).add(metric.step)
            entry.seen = seen


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a passwd line
        return socket.gethostname()


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _parts(items: list[T], size: int) -> Iterable[list[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
