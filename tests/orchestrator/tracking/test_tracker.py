"""The tracker on a real SQLite store, and against addresses where nobody answers."""

import logging
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fake_stages import make_plan, make_stage
from flushed import flushed

from orchestrator.config.schema import TrackingConfig
from orchestrator.plan.model import StageRef
from orchestrator.tracking.mlflow_store import DatasetInput, Store
from orchestrator.tracking.probing import probe
from orchestrator.tracking.sender import Pace, Sender
from orchestrator.tracking.tracker import Ending, RunIdentity, Tracker
from workers.errors import ConfigError

QUICK = Pace(linger_s=0.05, first_pause_s=0.1, longest_pause_s=0.2, sample_s=0.1)


ANCESTOR, TARGET, OTHER = StageRef("cnn6", "superset"), StageRef("cnn6", "target"), StageRef("base", "target")
# A plan may list a member's last stage before another of its stages.
PLAN = replace(
    make_plan(
        make_stage("cnn6/target", "cnn6/superset", reset=("fc8",)),
        make_stage("cnn6/superset", dataset="superset"),
        make_stage("base/target"),
    ),
    last_stages={"cnn6": TARGET, "base": OTHER},
)
PARAMS, TAGS = {"seed": 3}, {"septet.members": "2"}


def opened(uri, run_id="a", required=True, **changes):
    identity = replace(RunIdentity(run_id, "digits", "plan-hash", f"run {run_id}"), **changes)
    tracker = Tracker(TrackingConfig(uri, required), identity, PLAN, PARAMS, TAGS, QUICK)
    tracker.wait_until_open()
    return tracker


@dataclass(frozen=True)
class Place:
    """A store with what opens trackers on it and what reads it."""

    uri: str
    folder: Path
    client: Any

    def open(self, run_id, **changes):
        return opened(self.uri, run_id, **changes)

    def status(self, run_id):
        return str(self.client.get_run(run_id).info.status)

    def history(self, run_id, name):
        return sorted(self.client.get_metric_history(run_id, name), key=lambda metric: metric.step)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One store for the module: a fresh one takes seconds."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    return Place(uri, folder, MlflowClient(uri))


@pytest.fixture
def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine may take its time to end a run."""
    monkeypatch.setattr("orchestrator.tracking.tracker.CLOSE_S", 60)


def wait_until(holds, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)


def test_runs_nest_as_ensemble_member_and_stage(place):
    tracker = place.open("nesting")
    tracker.stage_started(ANCESTOR)
    tracker.stage_finished(ANCESTOR, Ending.FINISHED, {"septet.at_chance": "true"})
    tracker.stage_started(TARGET)
    assert flushed(tracker, 60) == 0
    ids = tracker.ids
    parent = place.client.get_run(ids["run_id"])
    member = place.client.get_run(ids["members"]["cnn6"])
    stage = place.client.get_run(ids["stages"]["cnn6/superset"])

    assert place.client.get_experiment(ids["experiment_id"]).name == "digits"
    assert parent.data.tags.items() >= {"septet.role": "ensemble", "septet.plan": "plan-hash"}.items()
    assert parent.data.params == {"seed": "3"}
    assert member.data.tags.items() >= {"mlflow.parentRunId": parent.info.run_id, "septet.role": "member"}.items()
    assert stage.data.tags.items() >= {"mlflow.parentRunId": member.info.run_id, "septet.role": "stage"}.items()
    of = {"member": "cnn6", "stage": "superset", "run": "nesting", "at_chance": "true"}
    assert stage.data.tags.items() >= {f"septet.{key}": value for key, value in of.items()}.items()
    assert (member.data.params["dataset"], stage.data.params["dataset"]) == ("target", "superset")
    assert stage.data.params.items() >= {"optimizer.lr": "0.01", "model.num_convs": "5", "num_updates": "10"}.items()
    assert [run.info.status for run in (stage, member, parent)] == ["FINISHED", "RUNNING", "RUNNING"]
    assert "base" not in ids["members"], "a member has no run before it starts"

    tracker.stage_finished(TARGET, Ending.FINISHED)
    tracker.close(Ending.FINISHED)
    assert place.status(parent.info.run_id) == place.status(member.info.run_id) == "FINISHED"


def test_runs_are_searched_for_once_a_launch_however_many_are_made(place, monkeypatch):
    searches, search = [], Store._find_all
    monkeypatch.setattr(Store, "_find_all", lambda self: (searches.append(1), search(self)))
    tracker = place.open("searched")
    for ref in PLAN.by_ref:
        tracker.stage_started(ref)
    tracker.close(Ending.FINISHED)
    assert len(tracker.ids["stages"]) == 3 and len(searches) == 1


def test_run_whose_creation_went_unanswered_is_searched_for_and_made_once(place, monkeypatch):
    from mlflow import MlflowClient

    tracker, create, lost = place.open("unanswered"), MlflowClient.create_run, []

    def unanswered(self, *given, **named):
        made = create(self, *given, **named)
        if not lost:
            lost.append(made.info.run_id)
            raise ConnectionError("the answer was lost")
        return made

    monkeypatch.setattr(MlflowClient, "create_run", unanswered)
    tracker.stage_started(OTHER)
    tracker.close(Ending.FINISHED)
    assert tracker.ids["members"]["base"] == lost[0]


def test_points_are_in_the_store_while_the_stage_runs(place):
    tracker = place.open("live")
    tracker.stage_started(OTHER)
    tracker.log(OTHER, 10, 1000.5, {"train/loss": 2.0, "lr": 0.1})
    tracker.log(OTHER, 20, 1001.5, {"train/loss": 1.0, "lr": 0.1})
    wait_until(lambda: "base/target" in tracker.ids["stages"])
    run_id = tracker.ids["stages"]["base/target"]
    wait_until(lambda: len(place.history(run_id, "train/loss")) == 2)
    points = [(point.step, point.value, point.timestamp) for point in place.history(run_id, "train/loss")]
    assert points == [(10, 2.0, 1000500), (20, 1.0, 1001500)]
    assert place.status(run_id) == "RUNNING"
    tracker.close(Ending.KILLED)
    assert place.status(run_id) == place.status(tracker.ids["run_id"]) == "KILLED"


def test_restart_keeps_the_ids_and_adds_only_missing_points(place):
    first = place.open("restart")
    first.stage_started(OTHER)
    for step in (10, 30):  # 20 was lost in an outage
        first.log(OTHER, step, 1000.0 + step, {"train/loss": float(step)})
    flushed(first, 60)
    first.abandon()  # as after kill -9: everything stays RUNNING

    identity = RunIdentity("restart", "digits", "other-plan", "run restart", new=False)
    params, tags = {"seed": 4, "more": 1}, {"septet.members": "3"}
    second = Tracker(TrackingConfig(place.uri, True), identity, PLAN, params, tags, QUICK)
    second.wait_until_open()
    run_id = first.ids["stages"]["base/target"]
    assert place.status(run_id) == "KILLED"
    second.stage_started(OTHER)
    for step in (10, 20, 30, 40, 40):  # computed again, so at other times, and once more by a retried actor
        second.log(OTHER, step, 5000.0 + step, {"train/loss": float(step)})
    assert flushed(second, 60) == 0

    assert second.ids == first.ids
    assert place.status(run_id) == "RUNNING"
    points = [(point.step, point.timestamp) for point in place.history(run_id, "train/loss")]
    assert points == [(10, 1010000), (20, 5020000), (30, 1030000), (40, 5040000)]
    data = place.client.get_run(second.ids["run_id"]).data
    assert data.params == {"seed": "3", "more": "1"}, "a parameter stays as it was"
    assert data.tags.items() >= {"septet.plan": "other-plan", "septet.members": "3"}.items(), (
        "a tag says what holds now"
    )
    second.abandon()
    third = place.open("restart", new=False)  # done by the launch before
    third.stage_finished(OTHER, Ending.FINISHED)
    flushed(third, 60)
    assert place.status(run_id) == place.status(third.ids["members"]["base"]) == "FINISHED"
    third.close(Ending.FINISHED)


def test_datasets_scores_artifacts_and_load_reach_the_parent_though_one_is_refused(place, tmp_path, caplog):
    digest = "d" * 64
    (tmp_path / "submission.txt").write_text("1 2 3\n")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "table.md").write_text("| 7 CNNs* |\n")
    tracker = place.open("parent")
    superset = DatasetInput("superset", digest)
    tracker.set_datasets({"target": DatasetInput("target", digest, "digits"), "superset": superset})
    tracker.stage_started(OTHER)
    for error in (0.3, 0.2, 0.2):
        tracker.log_scores({"ensemble/top1_error": error})
    tracker.log_artifact(tmp_path / "absent.txt")
    tracker.log_artifact(tmp_path / "submission.txt", "submission")
    tracker.log_artifact(tmp_path / "report", "report")
    with caplog.at_level(logging.WARNING):
        assert flushed(tracker, 60) == 0
    assert "absent.txt" in caplog.text
    parent = tracker.ids["run_id"]
    wait_until(lambda: "system/cpu_utilization_percentage" in place.client.get_run(parent).data.metrics)
    tracker.close(Ending.FINISHED)

    member = place.client.get_run(tracker.ids["members"]["base"])
    assert [each.dataset.name for each in member.inputs.dataset_inputs] == ["target"]
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


def test_new_run_where_nobody_listens_is_refused(closed_port):
    uri = f"http://someone:secret@127.0.0.1:{closed_port}"
    with pytest.raises(ConfigError, match=r"tracking\.required=false") as caught:
        opened(uri)
    said = str(caught.value)
    assert f"127.0.0.1:{closed_port}" in said and "secret" not in said and "\n" not in said


@pytest.mark.slow
def test_new_run_on_a_silent_host_is_refused():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # takes connections and never answers
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ConfigError, match="no answer within"):
            opened(uri)


@pytest.mark.parametrize(("required", "new"), [(False, True), (True, False)])
def test_store_that_is_away_stops_neither_optional_nor_resumed_runs(closed_port, caplog, required, new, monkeypatch):
    monkeypatch.setattr("orchestrator.tracking.tracker.CLOSE_S", 0.3)
    monkeypatch.setattr("orchestrator.tracking.tracker.REFUSED_S", 0.2)
    with caplog.at_level(logging.WARNING):
        tracker = opened(f"http://127.0.0.1:{closed_port}", required=required, new=new)
        tracker.stage_started(OTHER)
        for step in range(1000):
            tracker.log(OTHER, step, 1.0, {"lr": 0.1, "train/loss": 1.0})
        tracker.close(Ending.FINISHED)
    assert len(caplog.records) == 2, "one warning at the outage, one about what was left out"
    assert "4000 metric values" in caplog.text, "of the stage and of its member"


def test_probe_makes_no_database_and_names_what_is_wrong(tmp_path, place, closed_port):
    probe(f"sqlite:///{tmp_path}/new.db")
    assert not (tmp_path / "new.db").exists()
    assert "opens" in probe(place.uri)
    (tmp_path / "text.db").write_text("no database, but long enough to be read as one" * 100)
    files = (f"sqlite:///{tmp_path}/{name}" for name in ("absent/new.db", "text.db"))
    for uri in (*files, f"http://127.0.0.1:{closed_port}"):
        with pytest.raises(ConfigError):
            probe(uri, timeout_s=1)


def test_run_that_needs_no_tracking_waits_for_a_locked_file_no_longer_than_for_a_server(tmp_path, monkeypatch):
    limits: list[float] = []
    monkeypatch.setattr(Sender, "wait_for", lambda _self, _done, limit_s, _refused: limits.append(limit_s) or "locked")
    with pytest.raises(ConfigError, match="locked"):
        opened(f"sqlite:///{tmp_path}/a.db")
    (tmp_path / "a.db").touch()
    opened(f"sqlite:///{tmp_path}/a.db", required=False).abandon()
    of_needed, of_optional = limits
    assert of_optional < 10 < of_needed


def test_member_has_the_curves_of_its_stages_one_after_another_and_once(place):
    for new in (True, False):
        tracker = place.open("course", new=new)
        tracker.set_datasets({name: DatasetInput(name, name * 8) for name in ("superset", "target")})
        for ref in (ANCESTOR, TARGET):
            tracker.stage_started(ref)
            for step in (5, 10):
                tracker.log(ref, step, 1000.0, {"val/top1_error": step / 100})
        for ensemble in ([0.5, 0.25], [0.5, 0.25, 0.125]):
            tracker.log_by_members({"val_top1_error": ensemble})
        assert flushed(tracker, 60) == 0
        member, parent = tracker.ids["members"]["cnn6"], tracker.ids["run_id"]
        points = [(point.step, point.value) for point in place.history(member, "val/top1_error")]
        assert points == [(5, 0.05), (10, 0.1), (15, 0.05), (20, 0.1)]
        by_members = [(point.step, point.value) for point in place.history(parent, "by_members/val_top1_error")]
        assert by_members == [(1, 0.5), (2, 0.25), (3, 0.125)]
        datasets = [each.dataset.name for each in place.client.get_run(member).inputs.dataset_inputs]
        assert sorted(datasets) == ["superset", "target"]
        tracker.abandon()


def test_description_links_to_results_and_leaves_a_person_s_alone(place):
    tracker = place.open("described")
    for text in ("one", "| two |"):
        tracker.describe(text)
    assert flushed(tracker, 60) == 0
    run_id, experiment = tracker.ids["run_id"], tracker.ids["experiment_id"]

    def note():
        return place.client.get_run(run_id).data.tags["mlflow.note.content"]

    page = f"#/experiments/{experiment}/runs/{run_id}/artifacts/report/index.html?workflowType=machine_learning"
    assert note().startswith(f"[Report]({page})") and note().endswith("\n\n| two |")
    assert f"mlflow.sharedViewState.{run_id}" in place.client.get_experiment(experiment).tags
    place.client.set_tag(run_id, "mlflow.note.content", "mine")
    tracker.describe("three")
    tracker.close(Ending.FINISHED)
    assert note() == "mine"
