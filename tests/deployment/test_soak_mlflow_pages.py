"""What MLflow's pages say of a finished run of seven members: a real browser, MLflow's server, and Postgres."""

import contextlib
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from browser import open_browser
from flushed import flushed
from mlflow import MlflowClient
from stand_ins import postgres_programs
from whole_run import build_run

from orchestrator.config import TrackingConfig, compose
from orchestrator.finished import log_models
from orchestrator.outputs import write_results
from orchestrator.run.metrics import Follower
from orchestrator.tracking import DatasetInput, Ending, RunIdentity, Tracker, ensemble_params, save_pyfunc
from orchestrator.tracking.ui import Target, page, serving
from orchestrator.tracking.view import TRAINING_PAGES

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
BASE, PRETRAINED = tuple(f"base{n}" for n in range(1, 6)), ("deep1", "deep2")
DIGEST = "d" * 64
LOAD = {"system/cpu_utilization_percentage": 50.0}


@contextlib.contextmanager
def postgres():
    """The address of an empty database of Debian's Postgres, which does not run as root."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no Postgres is installed here: `apt-get install postgresql` adds it")
    as_other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])

    def run(program, *words):
        # Its output stays open in the server.
        subprocess.run([*as_other, str(programs / program), *words], check=True, stdout=subprocess.DEVNULL)

    # Not below pytest's folder, which only its owner may enter.
    with tempfile.TemporaryDirectory() as data:
        if as_other:
            os.chown(data, 65534, 65534)
        run("initdb", "-D", data, "--username=septet", "--auth=trust")
        options = f"-c listen_addresses=127.0.0.1 -p {port} -k {data}"
        run("pg_ctl", "-w", "-s", "-D", data, "-l", f"{data}/log.txt", "-o", options, "start")
        try:
            run("createdb", "-h", "127.0.0.1", "-p", port, "-U", "septet", "mlflow")
            yield f"postgresql+psycopg2://septet@127.0.0.1:{port}/mlflow"
        finally:
            run("pg_ctl", "-w", "-s", "-D", data, "-m", "immediate", "stop")


def driver_of_postgres(folder, patch):
    """Makes psycopg2 importable here and in the server."""
    with contextlib.suppress(ImportError):
        importlib.import_module("psycopg2")
        return
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), "-c", str(ROOT / "constraints.txt")]
    if subprocess.run([*pip, "psycopg2-binary"], capture_output=True, check=False).returncode:
        pytest.skip("no psycopg2 is here: `pip install septet[server]` adds it")
    patch.setenv("PYTHONPATH", f"{folder}:{os.environ.get('PYTHONPATH', '')}")
    patch.syspath_prepend(folder)


@dataclass(frozen=True)
class Shown:
    """A browser on MLflow's pages of the run; `ids` are MLflow's."""

    browser: Any
    address: str
    ids: dict[str, Any]
    folder: Path
    models: list[Any]

    @property
    def experiment(self):
        return f"{self.address}/#/experiments/{self.ids['experiment_id']}"

    def open(self, address, *words, width=2400, height=3000):
        """Opens a page and waits until its text has all the words."""
        self.browser.look(width, height)
        # In between, since another address of MLflow's differs in its fragment alone.
        self.browser.show("data:text/html,between")
        self.browser.call("Page.navigate", url=address)
        for word in words:
            self.browser.wait_for(f"document.body && document.body.innerText.includes({json.dumps(word)})")
        return str(self.browser.evaluate("document.body.innerText"))

    def shoot(self, name):
        """Keeps a picture for people, in the folder that SEPTET_SHOTS names."""
        if folder := os.environ.get("SEPTET_SHOTS"):
            self.browser.screenshot(Path(folder) / f"{name}.png")


def stand_in(paths, folder, forms, member, trust_code):
    """Writes a model with the real signature; the run has no nets to trace."""
    folder.mkdir()
    save_pyfunc(folder, b"", ["torch"])


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    run = build_run(folder / "run", BASE, PRETRAINED, labelled=("dev", "val", "test"))
    lines = []
    command = ("septet", "launch", "experiment=digits", "seed=7")
    config = replace(compose(["experiment=digits", "seed=7"]), command=command)
    with pytest.MonkeyPatch.context() as patch, postgres() as uri, open_browser() as browser:
        driver_of_postgres(folder / "site", patch)
        patch.setenv("MLFLOW_ARTIFACTS_DESTINATION", str(folder / "artifacts"))
        with serving(uri, timeout_s=240.0) as server:
            identity = RunIdentity("uuid", "synthetic", run.plan.hash, "seven", new=False)
            params = ensemble_params(config, run.plan)
            tracker = Tracker(TrackingConfig(server.address, False), identity, run.plan, params, {})
            tracker.wait_until_open()
            tracker.set_datasets({name: DatasetInput(name, DIGEST, name) for name in ("target", "superset")})
            for ref in run.plan.by_ref:
                tracker.stage_started(ref)
                for point in Follower(run.paths.metrics(ref)).read():
                    tracker.log(ref, point.step, point.time, {**point.metrics, **LOAD})
                tracker.stage_finished(ref, Ending.FINISHED)
            results = write_results(run.paths, run.plan, config.combine, config.submission)
            results.publish(run.paths, run.plan.trained, tracker)
            patch.setattr("orchestrator.finished.logged.export", stand_in)
            log_models(run.paths, "photographs", tracker, lines.append, trust_code=False)
            assert lines == ["MLflow: tracing 8 models", "MLflow: photographs version 1 is the champion"]
            assert flushed(tracker, 120) == 0
            tracker.close(Ending.FINISHED)
            models = MlflowClient(server.address).search_logged_models([tracker.ids["experiment_id"]])
            yield Shown(browser, server.address, tracker.ids, folder, models)


def test_experiment_page_opens_on_the_members_beside_each_other_with_one_chart_a_metric(shown):
    target = Target(shown.address, *(shown.ids[name] for name in ("experiment_id", "run_id", "view")))
    said = shown.open(page(shown.address, target), "8 matching runs", "by_members/val_top1_error", "train/top1_error")
    assert "You're viewing a shared view" in said and "Error loading" not in said
    lines = said.splitlines()
    for name in ("seven", *BASE, *PRETRAINED):
        assert lines.count(name) >= 5, f"{name} is in the list and in the charts"
    for metric in ("test/top1_error", "test/nll", "by_members/test_top1_error", "train/top1_error"):
        assert lines.count(metric) == 1, f"one chart of {metric}"
    assert lines.count("val/top1_error") == 2, "the last values and the curves"
    assert not [line for line in lines if line.startswith(("final/", "ensemble/"))]
    shown.shoot("experiment")


def test_table_has_the_datasets_and_the_settings_that_differ(shown):
    target = Target(shown.address, *(shown.ids[name] for name in ("experiment_id", "run_id", "view")))
    address = page(shown.address, target).replace("compareRunsMode=CHART", "compareRunsMode=TABLE")
    said = shown.open(address, "8 matching runs", "test/top1_error", f"superset ({DIGEST[:8]}", height=900)
    assert {"Dataset", "val/top1_error", "init_from", "deep1/pretrain"} <= set(said.splitlines())
    shown.shoot("table")


def test_seven_members_compare_by_parameters_and_scores(shown):
    runs = json.dumps([shown.ids["members"][name] for name in (*BASE, *PRETRAINED)])
    address = f"{shown.address}/#/compare-runs?runs={runs}&experiments=[%22{shown.ids['experiment_id']}%22]"
    said = shown.open(address, "Comparing 7 Runs", "optimizer.lr", "test/top1_error")
    assert all(word in said for word in ("val/nll", "init_from", *BASE, *PRETRAINED))
    shown.shoot("compare")


def test_run_page_has_the_description_with_its_table_and_links(shown):
    said = shown.open(f"{shown.experiment}/runs/{shown.ids['run_id']}", "Report · Submission", "7 CNNs*", "overrides")
    assert "experiment=digits seed=7" in said and "mean of 5" in said
    links = shown.browser.evaluate(
        "[...document.querySelectorAll('a')].filter(a => a.innerText === 'Report').map(a => a.href)"
    )
    shown.shoot("run")
    # The report comes as a frame of its own.
    shown.open(links[0], "report/index.html")
    shown.browser.wait_for("document.querySelector('iframe')")


def test_artifact_page_shows_a_figure(shown):
    shown.open(
        f"{shown.experiment}/runs/{shown.ids['run_id']}/artifacts/report/figures/reliability.svg", "reliability.svg"
    )
    shown.browser.wait_for("[...document.images].some(one => one.src.startsWith('blob:') && one.naturalWidth > 100)")
    shown.shoot("artifact")


def test_member_s_page_has_the_load_of_its_node_and_its_curves(shown):
    member = shown.ids["members"]["deep1"]
    shown.open(f"{shown.experiment}/runs/{member}/system-metrics", "cpu_utilization_percentage")
    shown.open(f"{shown.experiment}/runs/{member}/model-metrics", "val/top1_error", "train/top1_error")
    shown.shoot("member")


def test_run_without_a_view_opens_on_the_training_page(shown):
    target = Target(shown.address, shown.ids["experiment_id"], shown.ids["run_id"])
    said = shown.open(page(shown.address, target), "matching runs", "seven", "Model registry")
    assert "You're viewing a shared view" not in said and "Evaluation runs" not in said


def test_models_page_lists_members_and_the_ensemble_with_run_and_dataset(shown):
    said = shown.open(f"{shown.experiment}/models?{TRAINING_PAGES}", "ensemble", "deep1", "photographs", height=1200)
    shown.shoot("models")
    lines = said.splitlines()
    # The ensemble's run has a name of its own.
    assert lines.count("Ready") == 8 and {"seven", *BASE, *PRETRAINED} <= set(lines)
    assert said.count(f"target (#{DIGEST[:8]}") >= 8 and "photographs" in lines


def test_model_s_page_has_its_scores_dataset_run_and_files(shown):
    (model,) = [one for one in shown.models if one.name == "ensemble"]
    address = f"{shown.experiment}/models/{model.model_id}"
    said = shown.open(f"{address}?{TRAINING_PAGES}", "test/top1_error", "test/nll")
    shown.shoot("model")
    assert {"seven", model.model_id, "Ready"} <= set(said.splitlines()) and f"target (#{DIGEST[:8]}" in said
    said = shown.open(f"{address}/artifacts?{TRAINING_PAGES}", "MLmodel", "input_example.json")
    shown.shoot("model_artifacts")
    assert {"outcomes.json", "pyfunc_model.py"} <= set(said.splitlines())


def test_registered_model_s_page_has_the_champion_with_its_signature_and_run(shown):
    shown.open(f"{shown.address}/#/models/photographs", "Version 1", "champion", height=900)
    shown.shoot("registered")
    said = shown.open(f"{shown.address}/#/models/photographs/versions/1", "champion", "Inputs (1)", height=900)
    shown.shoot("version")
    assert {"seven", "Outputs (4)"} <= {line.strip() for line in said.splitlines()}
