"""The tracker on a real SQLite store, and against addresses where nobody answers."""

import logging
import math
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from flushed import flushed

from orchestrator.config.schema import TrackingConfig
from orchestrator.text import redact
from orchestrator.tracking.mlflow_store import DatasetInput
from orchestrator.tracking.opening import open_tracking, probe
from orchestrator.tracking.sender import Pace, Sender
from orchestrator.tracking.tracker import Ending, RunIdentity
from orchestrator.tracking.ui import serving
from workers.errors import ConfigError
from workers.settings.training import Recipe

QUICK = Pace(linger_s=0.05, first_pause_s=0.1, longest_pause_s=0.2, sample_s=0.1)


@dataclass(frozen=True)
class Ref:
    """Stands for plan.StageRef."""

    member: str
    stage: str


ANCESTOR, TARGET, OTHER = Ref("cnn6", "superset"), Ref("cnn6", "target"), Ref("base", "target")


def make_plan() -> Any:
    """Two members, one of them with two stages."""

    def stage(ref: Ref, dataset: str, init_from: Ref | None = None) -> Any:
        return SimpleNamespace(
            ref=ref,
            recipe=Recipe(dataset=dataset, reset=("fc8",)),
            init_from=init_from,
            init_file=None,
            seed=7,
            hash=f"hash of {ref}",
            num_images=100,
            num_updates=10,
            num_classes=4,
        )

    # A plan may list a member's last stage before another of its stages.
    target = stage(TARGET, "target", ANCESTOR)
    stages = (target, stage(ANCESTOR, "superset"), stage(OTHER, "target"))
    last = {"cnn6": target, "base": stages[-1]}
    return SimpleNamespace(stages=stages, members=("cnn6", "base"), last_stage=last.__getitem__)


@dataclass(frozen=True)
class Place:
    """A store with what opens trackers on it and what reads it."""

    uri: str
    folder: Path
    client: Any

    def open(self, run_id: str, **changes: Any) -> Any:
        identity = replace(RunIdentity(run_id, "digits", "plan-hash", f"run {run_id}"), **changes)
        return open_tracking(
            TrackingConfig(self.uri, True), identity, make_plan(), {"seed": 3}, {"septet.members": "2"}, QUICK
        )

    def history(self, run_id: str, name: str) -> list[Any]:
        return sorted(self.client.get_metric_history(run_id, name), key=lambda metric: metric.step)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """One store for the module: a fresh one takes seconds."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    return Place(uri, folder, MlflowClient(uri))


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(holds: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)


def test_runs_nest_as_ensemble_member_and_stage(place: Place) -> None:
    tracker = place.open("nesting")
    tracker.stage_started(ANCESTOR)
    tracker.stage_finished(ANCESTOR, Ending.FINISHED, {"septet.at_chance": "true"})
    tracker.stage_started(TARGET)
    assert flushed(tracker) == 0
    ids = tracker.ids
    parent = place.client.get_run(ids["run_id"])
    member = place.client.get_run(ids["members"]["cnn6"])
    stage = place.client.get_run(ids["stages"]["cnn6/superset"])

    assert place.client.get_experiment(ids["experiment_id"]).name == "digits"
    assert parent.data.tags["septet.role"] == "ensemble"
    assert parent.data.tags["septet.plan"] == "plan-hash"
    assert parent.data.params == {"seed": "3"}
    assert member.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert member.data.tags["septet.role"] == "member"
    assert stage.data.tags["mlflow.parentRunId"] == member.info.run_id
    assert stage.data.tags["septet.role"] == "stage"
    assert stage.data.tags["septet.member"] == "cnn6"
    assert stage.data.tags["septet.stage"] == "superset"
    assert stage.data.tags["septet.run"] == "nesting"
    assert stage.data.tags["septet.at_chance"] == "true"
    assert (member.data.params["dataset"], stage.data.params["dataset"]) == ("target", "superset")
    assert stage.data.params["lr"] == "0.01"
    assert stage.data.params["num_convs"] == "5"
    assert stage.data.params["batch_size"] == "128"
    assert (stage.info.status, member.info.status, parent.info.status) == ("FINISHED", "RUNNING", "RUNNING")
    assert "base" not in ids["members"], "a member has no run before it starts"

    tracker.stage_finished(TARGET, Ending.FINISHED)
    tracker.close(Ending.FINISHED)
    statuses = {place.client.get_run(run_id).info.status for run_id in (parent.info.run_id, member.info.run_id)}
    assert statuses == {"FINISHED"}


def test_points_are_in_the_store_while_the_stage_runs(place: Place) -> None:
    tracker = place.open("live")
    tracker.stage_started(OTHER)
    tracker.log(OTHER, 10, 1000.5, {"train/loss": 2.0, "lr": 0.1})
    tracker.log(OTHER, 20, 1001.5, {"train/loss": 1.0, "lr": 0.1})
    wait_until(lambda: "base/target" in tracker.ids["stages"])
    run_id = tracker.ids["stages"]["base/target"]
    wait_until(lambda: len(place.history(run_id, "train/loss")) == 2)

    points = place.history(run_id, "train/loss")
    assert [(point.step, point.value, point.timestamp) for point in points] == [(10, 2.0, 1000500), (20, 1.0, 1001500)]
    assert place.client.get_run(run_id).info.status == "RUNNING"
    tracker.close(Ending.KILLED)
    assert place.client.get_run(run_id).info.status == "KILLED"
    assert place.client.get_run(tracker.ids["run_id"]).info.status == "KILLED"


def test_restart_keeps_the_ids_and_adds_only_missing_points(place: Place) -> None:
    first = place.open("restart")
    first.stage_started(OTHER)
    for step in (10, 30):  # 20 was lost in an outage
        first.log(OTHER, step, 1000.0 + step, {"train/loss": float(step)})
    flushed(first)
    first.abandon()  # as after kill -9: everything stays RUNNING

    second = place.open("restart", new=False)
    stale = place.client.get_run(first.ids["stages"]["base/target"]).info.status
    second.stage_started(OTHER)
    for step in (10, 20, 30, 40):  # computed again, so at other times
        second.log(OTHER, step, 5000.0 + step, {"train/loss": float(step)})
    assert flushed(second) == 0
    run_id = second.ids["stages"]["base/target"]

    assert stale == "KILLED"
    assert second.ids == first.ids
    assert place.client.get_run(run_id).info.status == "RUNNING"
    points = [(point.step, point.timestamp) for point in place.history(run_id, "train/loss")]
    assert points == [(10, 1010000), (20, 5020000), (30, 1030000), (40, 5040000)]
    second.close(Ending.FINISHED)


def test_step_repeated_by_a_retried_actor_adds_nothing(place: Place) -> None:
    tracker = place.open("repeat")
    tracker.stage_started(OTHER)
    for time_s in (1.0, 2.0):
        tracker.log(OTHER, 5, time_s, {"lr": 0.1})
    flushed(tracker)
    assert len(place.history(tracker.ids["stages"]["base/target"], "lr")) == 1
    tracker.close(Ending.FINISHED)


def test_changed_parameter_of_a_known_run_is_left_as_it_was(place: Place) -> None:
    place.open("params").close(Ending.FINISHED)
    identity = RunIdentity("params", "digits", "other-plan", "run params", new=False)
    params, tags = {"seed": 4, "more": 1}, {"septet.members": "3"}
    tracker = open_tracking(TrackingConfig(place.uri, True), identity, make_plan(), params, tags, QUICK)
    data = place.client.get_run(tracker.ids["run_id"]).data
    assert data.params == {"seed": "3", "more": "1"}
    assert data.tags["septet.plan"] == "other-plan"
    assert data.tags["septet.members"] == "3", "a tag says what holds now"
    tracker.close(Ending.FINISHED)


def test_stage_done_in_an_earlier_launch_ends_finished_with_its_member(place: Place) -> None:
    first = place.open("done")
    first.stage_started(OTHER)
    flushed(first)
    first.abandon()
    second = place.open("done", new=False)
    second.stage_finished(OTHER, Ending.FINISHED)
    flushed(second)
    ids = second.ids
    for run_id in (ids["stages"]["base/target"], ids["members"]["base"]):
        assert place.client.get_run(run_id).info.status == "FINISHED"
    second.close(Ending.FINISHED)


def test_datasets_scores_artifacts_and_load_reach_the_parent(place: Place, tmp_path: Path) -> None:
    digest = "d" * 64
    (tmp_path / "submission.txt").write_text("1 2 3\n")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "table.md").write_text("| 7 CNNs* |\n")
    tracker = place.open("parent")
    tracker.set_datasets(
        {"target": DatasetInput("target", digest, "digits"), "superset": DatasetInput("superset", digest)}
    )
    tracker.stage_started(OTHER)
    for error in (0.3, 0.2, 0.2):
        tracker.log_ensemble({"ensemble/top1_error": error})
    tracker.log_artifact(tmp_path / "submission.txt", "submission")
    tracker.log_artifact(tmp_path / "report", "report")
    assert flushed(tracker) == 0
    parent = tracker.ids["run_id"]
    wait_until(lambda: "system/cpu_utilization_percentage" in place.client.get_run(parent).data.metrics)
    tracker.close(Ending.FINISHED)

    run = place.client.get_run(parent)
    assert run.data.metrics["ensemble/top1_error"] == 0.2
    assert len(place.history(parent, "ensemble/top1_error")) == 2
    assert run.data.tags["septet.dataset.target"] == digest
    assert {each.dataset.name for each in run.inputs.dataset_inputs} == {"target", "superset"}
    stage = place.client.get_run(tracker.ids["stages"]["base/target"])
    assert [each.dataset.name for each in stage.inputs.dataset_inputs] == ["target"]
    artifacts = place.folder / "mlartifacts" / parent / "artifacts"
    assert (artifacts / "submission" / "submission.txt").read_text() == "1 2 3\n"
    assert (artifacts / "report" / "table.md").exists()


def test_refused_artifact_holds_up_nothing_else(place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = place.open("refused")
    tracker.log_artifact(tmp_path / "absent.txt")
    tracker.log_ensemble({"ensemble/nll": 1.0})
    with caplog.at_level(logging.WARNING):
        tracker.close(Ending.FINISHED)
    assert place.client.get_run(tracker.ids["run_id"]).data.metrics["ensemble/nll"] == 1.0
    assert "absent.txt" in caplog.text


def test_new_run_where_nobody_listens_is_refused_within_ten_seconds(closed_port: int) -> None:
    uri = f"http://someone:secret@127.0.0.1:{closed_port}"
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"tracking\.required=false") as caught:
        open_tracking(TrackingConfig(uri, True), RunIdentity("a", "digits", "h", "n"), make_plan(), {}, {}, QUICK)
    assert time.monotonic() - start < 10
    assert f"127.0.0.1:{closed_port}" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_new_run_on_a_silent_host_is_refused_within_ten_seconds() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # takes connections and never answers
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(ConfigError, match="no answer within"):
            open_tracking(TrackingConfig(uri, True), RunIdentity("a", "digits", "h", "n"), make_plan(), {}, {}, QUICK)
        assert time.monotonic() - start < 10


@pytest.mark.parametrize(("required", "new"), [(False, True), (True, False)])
def test_store_that_is_away_stops_neither_optional_nor_resumed_runs(
    closed_port: int, caplog: pytest.LogCaptureFixture, required: bool, new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.tracking.mlflow_tracker.CLOSE_S", 0.3)
    monkeypatch.setattr("orchestrator.tracking.mlflow_tracker.REFUSED_S", 0.2)
    uri = f"http://127.0.0.1:{closed_port}"
    identity = RunIdentity("a", "digits", "h", "n", new=new)
    with caplog.at_level(logging.WARNING):
        tracker = open_tracking(TrackingConfig(uri, required), identity, make_plan(), {}, {}, QUICK)
        start = time.monotonic()
        tracker.stage_started(OTHER)
        for step in range(1000):
            tracker.log(OTHER, step, 1.0, {"lr": 0.1, "train/loss": 1.0})
        assert time.monotonic() - start < 1, "logging must not wait for the store"
        tracker.close(Ending.FINISHED)
        assert time.monotonic() - start < 5
    assert len(caplog.records) == 2, "one warning at the outage, one about what was left out"
    assert "2000 metric values" in caplog.text


@pytest.mark.slow
def test_server_that_goes_away_and_comes_back_has_all_points_in_the_end(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(place.uri) as server:
        port = urlsplit(server.address).port
        assert port is not None
        config = TrackingConfig(server.address, True)
        identity = RunIdentity("outage", "digits", "h", "outage")
        tracker = open_tracking(config, identity, make_plan(), {"seed": 3}, {"septet.members": "2"}, QUICK)
        assert probe(server.address).endswith("answers")
        tracker.stage_started(OTHER)
        tracker.log(OTHER, 10, 1000.0, {"lr": 0.1})
        assert flushed(tracker) == 0
    with caplog.at_level(logging.WARNING):
        start = time.monotonic()
        tracker.log(OTHER, 20, 1001.0, {"lr": 0.1})
        tracker.stage_finished(OTHER, Ending.FINISHED)
        tracker.log_ensemble({"ensemble/nll": math.nan})
        assert time.monotonic() - start < 1
        assert flushed(tracker, 0.5) > 0
    assert [record.name for record in caplog.records] == ["orchestrator.tracking.sender"], "one warning"
    with serving(place.uri, port=port) as server:
        assert urlsplit(server.address).port == port
        assert flushed(tracker, 30) == 0
        tracker.close(Ending.FINISHED)
    run_id = tracker.ids["stages"]["base/target"]
    assert [point.step for point in place.history(run_id, "lr")] == [10, 20]
    assert place.client.get_run(run_id).info.status == "FINISHED"
    parent = place.client.get_run(tracker.ids["run_id"])
    assert parent.info.status == "FINISHED"
    assert math.isnan(parent.data.metrics["ensemble/nll"])


def test_probe_makes_no_database_and_names_what_is_wrong(tmp_path: Path, place: Place, closed_port: int) -> None:
    probe(f"sqlite:///{tmp_path}/new.db")
    assert not (tmp_path / "new.db").exists()
    assert "opens" in probe(place.uri)
    (tmp_path / "text.db").write_text("no database, but long enough to be read as one" * 100)
    for uri in (
        f"sqlite:///{tmp_path}/absent/new.db",
        f"sqlite:///{tmp_path}/text.db",
        f"http://127.0.0.1:{closed_port}",
    ):
        with pytest.raises(ConfigError):
            probe(uri, timeout_s=1)


def test_redact_hides_every_password() -> None:
    assert redact("http://me:pa:ss@host:5000/x") == "http://***@host:5000/x"
    assert "hush" not in redact("postgresql://host/db?user=me&password=hush&x=1")
    assert redact("failed at https://a:b@c/d?e") == "failed at https://***@c/d?e"
    assert redact("sqlite:////home/me/mlflow.db") == "sqlite:////home/me/mlflow.db"


def test_run_that_needs_no_tracking_waits_for_a_locked_file_no_longer_than_for_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    monkeypatch.setattr(
        Sender, "wait_for", lambda _self, _done, limit_s, _refused_s: limits.append(limit_s) or "locked"
    )

    def opened(*, required: bool) -> Any:
        run = RunIdentity("a", "digits", "plan-hash", "run a")
        return open_tracking(TrackingConfig(f"sqlite:///{tmp_path}/a.db", required), run, make_plan(), {}, {}, QUICK)

    with pytest.raises(ConfigError, match="locked"):
        opened(required=True)
    opened(required=False).abandon()
    of_needed, of_optional = limits
    assert of_optional < 10 < of_needed
