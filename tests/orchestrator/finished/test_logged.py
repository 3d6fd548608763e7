"""Logged models on a real SQLite store: one of each digest, errors that end nothing, and the champion's alias."""

import json
from functools import partial
from pathlib import Path

import pytest
from whole_run import build_run

from orchestrator.config.schema import CombineConfig, SubmissionConfig, TrackingConfig
from orchestrator.finished import logged
from orchestrator.finished.logged import _stays, log_models
from orchestrator.outputs import write_results
from orchestrator.tracking.mlflow_store import DatasetInput
from orchestrator.tracking.tracker import Ending, RunIdentity, Tracker
from workers.errors import ConfigError

MEMBERS = ("lr0.5", "deep1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = build_run(tmp_path_factory.mktemp("runs") / "run", MEMBERS[:1], labelled=("val", "test"))
    return run, write_results(run.paths, run.plan, CombineConfig(), SubmissionConfig())


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")


@pytest.fixture
def tracker(finished, client, request):
    """Of a run of its own, which has scores and a dataset."""
    run, results = finished
    identity = RunIdentity(request.node.name, "logged", run.plan.hash, "a run", new=False)
    tracker = Tracker(TrackingConfig(client.tracking_uri, False), identity, run.plan, {}, {})
    tracker.wait_until_open()
    tracker.set_datasets({name: DatasetInput(name, name * 9, name) for name in ("superset", "target")})
    for ref in run.plan.by_ref:
        tracker.stage_started(ref)
    results.publish(run.paths, run.plan.trained, tracker)
    yield tracker
    tracker.close(Ending.FINISHED)


@pytest.fixture
def exports(monkeypatch):
    """Members that were exported, in order; the real one takes a second each."""
    made = []

    def export(paths, folder, forms, member, trust_code):
        made.append(member)
        folder.mkdir()
        (folder / "MLmodel").write_text("flavors: {}\n")

    monkeypatch.setattr(logged, "export", export)
    return made


def _log(finished, tracker, register=None, lines=None):
    lines = [] if lines is None else lines
    log_models(finished[0].paths, register, tracker, lines.append, trust_code=False)
    return lines


def _models(client, tracker):
    found = client.search_logged_models([tracker.ids["experiment_id"]])
    runs = {tracker.ids["run_id"], *tracker.ids["members"].values()}
    return {one.name: one for one in found if one.source_run_id in runs}, len(found)


def test_models_are_logged_once_with_scores_dataset_and_digest(finished, client, tracker, exports):
    assert _log(finished, tracker) == ["MLflow: tracing 3 models"]
    assert sorted(map(str, exports)) == ["None", *sorted(MEMBERS)]
    found, count = _models(client, tracker)
    assert sorted(found) == ["deep1", "ensemble", "lr0_5"]
    digest = finished[1].digests.manifest_sha256
    for name, model in found.items():
        run = client.get_run(model.source_run_id)
        assert model.tags["septet.manifest_sha256"] == digest and str(model.status) == "READY"
        told = {one.key: (one.value, one.dataset_name) for one in model.metrics}
        assert told["test/top1_error"] == (run.data.metrics["test/top1_error"], "target"), name
        assert len(client.get_metric_history(run.info.run_id, "test/top1_error")) == 1, "the run's point, no second"
        assert [one.model_id for one in run.outputs.model_outputs] == [model.model_id]
    # Again: nothing is traced.
    assert (_log(finished, tracker), len(exports)) == ([], 3)
    assert _models(client, tracker)[1] == count


def test_model_that_was_cut_off_is_completed(finished, client, tracker, exports, monkeypatch):
    from mlflow import MlflowClient

    whole = MlflowClient.finalize_logged_model
    monkeypatch.setattr(MlflowClient, "finalize_logged_model", lambda *_: {}["cut off"])
    _log(finished, tracker)
    before = _models(client, tracker)[1]
    monkeypatch.setattr(MlflowClient, "finalize_logged_model", whole)
    _log(finished, tracker)
    found, after = _models(client, tracker)
    assert before == after and {str(one.status) for one in found.values()} == {"READY"}


def test_net_that_cannot_be_traced_costs_a_line(finished, client, tracker, exports, monkeypatch):
    export = logged.export

    def refuse(paths, folder, forms, member, trust_code):
        if member != "deep1":
            raise ConfigError("a net of others")
        export(paths, folder, forms, member, trust_code)

    monkeypatch.setattr(logged, "export", refuse)
    lines = _log(finished, tracker, "unmade")
    assert lines[1:] == [f"MLflow lacks the model of {one}: a net of others" for one in ("the ensemble", "lr0.5")]
    assert sorted(_models(client, tracker)[0]) == ["deep1"]
    assert not client.search_registered_models("name = 'unmade'")


def test_store_that_is_down_costs_a_line_and_no_trace(finished, exports, monkeypatch):
    monkeypatch.setattr("orchestrator.tracking.tracker.CLOSE_S", 0.2)
    identity = RunIdentity("down", "logged", "hash", "a run", new=False)
    tracker = Tracker(TrackingConfig("sqlite:////nowhere/mlflow.db", False), identity, finished[0].plan, {}, {})
    tracker.wait_until_open()
    assert "launch again" in "".join(_log(finished, tracker, "digits")) and exports == []
    tracker.abandon()


def test_champion_gives_way_to_a_surely_better_ensemble_alone(finished, client, tracker, exports):
    ours = logged._outcomes(finished[0].paths)
    assert _log(finished, tracker, "digits")[-1] == "MLflow: digits version 1 is the champion"
    assert _log(finished, tracker, "digits") == ["MLflow: digits version 1 is the champion"]
    model, version = _models(client, tracker)[0]["ensemble"], client.get_model_version("digits", "1")
    kept = Path(model.artifact_location.removeprefix("file://")) / "outcomes.json"
    assert json.loads(kept.read_text()) == ours and version.source == model.artifact_location
    models = tracker._store.models
    second = client.create_logged_model(tracker.ids["experiment_id"], "second", tracker.ids["run_id"])
    line = models.register(second, "digits", partial(_stays, ours))
    assert line.startswith("digits version 2: the alias champion stays at version 1: the error would change by +0.00")
    assert str(client.get_model_version_by_alias("digits", "champion").version) == "1"
    kept.write_text(json.dumps(dict.fromkeys(ours, 1.0)))
    assert models.register(second, "digits", partial(_stays, dict.fromkeys(ours, 0.0))) == (
        "digits version 2 is the champion"
    )
    assert len(client.search_model_versions("name = 'digits'")) == 2


@pytest.mark.parametrize("theirs", [b"", b'{"a 0": 1.0}', b'{"a 0": 1.0, "b 2": 1.0}'])
def test_champion_of_other_images_stays(theirs):
    assert _stays({"a 0": 0.0, "b 1": 0.0}, theirs) == "the two were not scored on the same images"
    assert _stays({}, b"{}") == "the two were not scored on the same images"
