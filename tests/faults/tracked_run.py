"""What tracking faults share: a run without training, a real MLflow server, and the oracle of what a store must hold.

The driver, its following of metrics.jsonl, the tracker and its sender are the real ones; stages are
tests/orchestrator/fake_stages.py's, so that a fault costs a second and not a training.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from driver_run import Run
from fake_stages import FakeStages, plan_of
from flushed import flushed

from orchestrator.config.schema import TrackingConfig
from orchestrator.plan.model import Plan
from orchestrator.run.paths import RunPaths
from orchestrator.tracking.sender import Pace
from orchestrator.tracking.tracker import Ending, RunIdentity, Tracker
from orchestrator.tracking.ui import serving

GIVE_UP_S = 120.0
REQUEST_S = 1  # of an impatient client, in place of eight
QUICK = Pace(linger_s=0.02, first_pause_s=0.05, longest_pause_s=0.1, sample_s=600)
CHAINS: Mapping[str, Mapping[str, str | None]] = {"base": {"train": None}, "wide": {"pre": None, "fine": "wide/pre"}}
SCORES = {"ensemble/top1_error": 0.25, "ensemble/nll": float("nan")}


@dataclass(frozen=True)
class MlflowServer:
    """A real server on loopback; `client` reads its database beside it, `empty` is that database before any run."""

    port: int
    uri: str
    empty: Path
    client: Any

    def another_store(self, folder: Path) -> str:
        """A SQLite store of its own, without the seconds that making one takes."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mlflow.db").write_bytes(self.empty.read_bytes())
        return f"sqlite:///{folder}/mlflow.db"


@contextmanager
def mlflow_server(folder: Path) -> Iterator[MlflowServer]:
    """The server for the length of the block."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{folder}/mlflow.db"
    with serving(uri, timeout_s=240.0) as server:
        with closing(sqlite3.connect(folder / "mlflow.db")) as made, closing(sqlite3.connect(folder / "empty")) as copy:
            made.backup(copy)
        port = urlsplit(server.address).port
        yield MlflowServer(port, uri, folder / "empty", MlflowClient(uri))


@dataclass
class FakeRun:
    """A run directory whose stages train nothing, and launches of it that are tracked at `uri`."""

    root: Path
    uri: str
    fakes: FakeStages = field(default_factory=FakeStages)
    plan: Plan = field(default_factory=lambda: plan_of(CHAINS))
    num_launches: int = 0

    def __post_init__(self) -> None:
        self.work = Run(self.root, self.plan, self.fakes)
        self.paths = self.work.paths

    @property
    def run_id(self) -> str:
        return f"run of {self.root}"

    def open(self) -> Tracker:
        """Tracking as a launch opens it; a store that is away stops nothing."""
        new, self.num_launches = self.num_launches == 0, self.num_launches + 1
        identity = RunIdentity(self.run_id, "faults", self.plan.hash, self.root.name, new)
        tracker = Tracker(TrackingConfig(self.uri, False), identity, self.plan, {"seed": 1}, {}, QUICK)
        tracker.wait_until_open()
        return tracker

    def train(self, tracker: Tracker) -> None:
        """All that is not done yet, by the real driver."""
        self.work.tracker = tracker
        assert self.work.launch()

    def finish(self, tracker: Tracker) -> None:
        """The end of a launch that went well."""
        tracker.log_scores(SCORES)
        tracker.log_scores({"final/nll": 0.5}, "base")
        tracker.log_artifact(self.paths.ledger, "submission")
        tracker.close(Ending.FINISHED)

    def launch(self) -> None:
        """A launch from start to end."""
        tracker = self.open()
        self.train(tracker)
        self.finish(tracker)


def written(metrics: Path) -> list[tuple[str, int, float]]:
    """(metric, step, value) of a metrics.jsonl, without the machine's load."""
    points = [json.loads(line) for line in metrics.read_text().splitlines()]
    values = ((name, point["step"], value) for point in points for name, value in point["metrics"].items())
    return sorted(each for each in values if not each[0].startswith("system/"))


def found_runs(client: Any, run_id: str) -> list[Any]:
    """The runs that a store shows of one ensemble."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    return list(client.search_runs(experiments, f"tags.`septet.run` = '{run_id}'"))


def key_of(run: Any) -> str:
    """`member/stage`, `member/`, or `/` for the parent."""
    return f"{run.data.tags.get('septet.member', '')}/{run.data.tags.get('septet.stage', '')}"


def held(client: Any, run: Any) -> list[tuple[str, int, float]]:
    """(metric, step, value) of a run in the store, each as often as it is there."""
    return sorted(
        (name, point.step, point.value)
        for name in run.data.metrics
        if not name.startswith("system/")
        for point in client.get_metric_history(run.info.run_id, name)
    )


def check_runs(client: Any, run_id: str, plan: Plan, paths: RunPaths) -> dict[str, Any]:
    """The store holds what metrics.jsonl says, each point once; one parent, its children, theirs; all FINISHED.

    Returns the runs by `key_of`.
    """
    runs = found_runs(client, run_id)
    wanted = {"/", *(f"{member}/" for member in plan.members), *map(str, plan.by_ref)}
    assert Counter(key_of(found) for found in runs) == dict.fromkeys(wanted, 1), "runs made twice or not at all"
    by_key = {key_of(found): found for found in runs}
    assert {found.info.status for found in runs} == {"FINISHED"}
    for key, found in by_key.items():
        member, _, stage = key.partition("/")
        above = None if not member else by_key[f"{member}/" if stage else "/"].info.run_id
        assert found.data.tags.get("mlflow.parentRunId") == above
        assert key == "/" or found.data.params["num_updates"]
    for ref in plan.by_ref:
        assert held(client, by_key[str(ref)]) == written(paths.metrics(ref)), "points lacking or there twice"
    for member in plan.trained:
        course = member_course(plan, paths, member)
        # Final scores are at step 0, or after a curve of their name.
        found = Counter(held(client, by_key[f"{member}/"]))
        assert not Counter(course) - found and max(found.values()) == 1, "points of a member lacking or there twice"
    return by_key


def member_course(plan: Plan, paths: RunPaths, member: str) -> list[tuple[str, int, float]]:
    """(metric, step, value) of all stages of a member, one after another."""
    begin, course = 0, []
    for stage in plan.stages_of(member):
        course += [(name, begin + step, value) for name, step, value in written(paths.metrics(stage.ref))]
        begin += stage.num_updates
    return sorted(course)


def check_complete(client: Any, run: FakeRun) -> None:
    """`check_runs`, and the final scores once each."""
    by_key = check_runs(client, run.run_id, run.plan, run.paths)
    scores = held(client, by_key["/"])
    assert [(name, step) for name, step, _ in scores] == [(name, 0) for name in sorted(SCORES)], "scores there twice"
    assert held(client, by_key["base/"]) == sorted([*member_course(run.plan, run.paths, "base"), ("final/nll", 0, 0.5)])


@contextmanager
def patience() -> Iterator[None]:
    """A busy machine has time again: what follows meets no fault."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.tracking.tracker.CLOSE_S", GIVE_UP_S)
        patch.setattr("orchestrator.tracking.tracker._ANSWER_S", GIVE_UP_S)
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(GIVE_UP_S)))
        yield


def launch_again(run: FakeRun) -> None:
    with patience():
        run.launch()


def finish_when_sent(run: FakeRun, tracker: Any) -> None:
    assert flushed(tracker, GIVE_UP_S) == 0
    with patience():
        run.finish(tracker)


def stop_and_join(tracker: Any) -> None:
    """A launch's process is gone when the next one starts; here its thread has to be."""
    tracker._sender.stop()
    tracker._sender._thread.join(GIVE_UP_S)
    assert not tracker._sender._thread.is_alive()
