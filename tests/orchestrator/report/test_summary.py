"""The words of the page: headline, cost, links, and the settings that differ."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fake_stages import make_plan, make_stage
from whole_run import build_run, finish, scores_of

from orchestrator.cluster import Where
from orchestrator.config.schema import SubmissionConfig
from orchestrator.plan.model import StageRef, TrainJob
from orchestrator.report import summary
from orchestrator.report.evidence import Evidence
from orchestrator.report.sections import Link
from orchestrator.run.ledger import Attempt, AttemptEnd, Contents, Entry
from orchestrator.run.record import read_record
from workers.settings.training import OptimizerSettings
from workers.storage import write_json, write_json_lines

pytestmark = pytest.mark.usefixtures("no_drawing")
HOUR = 3600.0


def evidence_of(plan, record, paths=None):
    nothing = {}
    return Evidence(paths, plan, record, None, (), nothing, nothing, None)


def attempt(start, end, launch=1, node="n1", device="cuda:0", width=1):
    where = Where(node, "10.0.0.1", 1, device, "id")
    return Attempt(0, launch, start, 0, 10, AttemptEnd.done, ended=end, where=where, width=width)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = build_run(tmp_path_factory.mktemp("summary") / "run")
    first, other = (TrainJob(StageRef(name, "train")) for name in ("base1", "base2"))
    launches = Contents().with_entries(
        {
            first: Entry(attempts=(attempt(0, HOUR), attempt(10 * HOUR, 12 * HOUR, launch=2, node="n2"))),
            other: Entry(attempts=(attempt(0.5 * HOUR, 1.5 * HOUR, width=2),)),
        }
    )

    write_json_lines(made.paths.ledger, launches)
    made.paths.log(StageRef("base1", "train")).write_text("log")
    record = json.loads(made.paths.run_json.read_text())
    record["mlflow"] = {"uri": "http://***@h:5000/", "experiment_id": "3", "run_id": "e", "members": {"base1": "m 1"}}
    record["command"] = ["septet", "launch", "experiment=a b"]
    write_json(made.paths.run_json, record)
    finish(made, submission=SubmissionConfig())
    return made


@pytest.fixture(scope="module")
def page(run):
    return run.paths.report_page.read_text()


def test_headline_compares_the_ensemble_with_the_best_and_the_mean_member(run, page):
    scores = scores_of(run)
    gain, errors = scores["gain"], {name: one["top1_error"] for name, one in scores["members"].items()}
    own = scores["ensemble"]["top1_error"]
    assert errors[gain["best"]] == min(errors.values())
    assert gain["than_best"]["estimate"] == pytest.approx(own - min(errors.values()))
    assert gain["than_mean"]["estimate"] == pytest.approx(own - np.mean([*errors.values()]))
    assert gain["than_mean"]["low"] <= gain["than_mean"]["estimate"] <= gain["than_mean"]["high"]
    assert f"against the best member, {gain['best']}" in page
    assert f"{100 * gain['than_mean']['estimate']:+.2f} points" in page


def test_headline_says_what_was_submitted_what_it_cost_and_where(run, page):
    said = json.loads(run.paths.submission_manifest.read_text())
    assert f'<a href="../submission/{said["file"]}">{said["file"]}</a>' in page
    assert f"labels of 80 test images, sha256 {said['sha256'][:12]}" in page
    # One of two launches took 1.5 hours, the other 2; the members' predictions are not in this ledger.
    assert "3 h 30 min of wall clock in 2 launches" in page
    assert "at least 5.00 core-hours" in page
    assert "1970-01-01 12:00 UTC" in page and "on n1 (10.0.0.1), n2 (10.0.0.1): cuda:0" in page


def test_headline_of_one_member_compares_it_with_nobody(tmp_path):
    run = build_run(tmp_path / "run", base=("only",), pretrained=())
    finish(run, submission=SubmissionConfig())
    page = run.paths.report_page.read_text()
    assert "top-1 error on val" in page and "against the" not in page


def test_links_lead_to_logs_that_are_there_and_to_runs_of_a_served_store(run, page):
    assert 'href="../members/base1/train/log.txt"' in page and "base2/train/log.txt" not in page
    assert 'href="http://h:5000/#/experiments/3/runs/e?workflowType=machine_learning"' in page
    assert "septet launch &#39;experiment=a b&#39;" in page


@pytest.mark.parametrize("uri", ["sqlite:///x.db", "file:///x", ""])
def test_links_to_a_store_that_is_no_server_are_the_command_instead(run, uri):
    record = replace(read_record(run.paths), mlflow={"uri": uri, "run_id": "e"} if uri else {})
    details = {one.name: one.value for one in summary.again(evidence_of(run.plan, record, run.paths)).details}
    assert details.get("MLflow") == ("septet ui RUN_DIR" if uri else None)
    assert not any(isinstance(value, Link) for value in details.values())


def test_settings_that_differ_are_listed_by_leaf_with_their_members():
    def settings(*stages):
        return summary.settings(evidence_of(make_plan(*stages), None))

    slow = {"optimizer": OptimizerSettings(lr=0.5)}
    found = settings(make_stage("a/train"), make_stage("b/train", **slow), make_stage("c/train"))
    assert found.tables[0].lines == (("optimizer.lr", "0.01", "a, c"), ("optimizer.lr", "0.5", "b"))
    frozen = settings(make_stage("a/train"), make_stage("b/train", lr_scale={"conv1": 2.0}))
    assert frozen.tables[0].lines == (
        ("lr_scale.conv1", "–", "a"),
        ("lr_scale.conv1", "2.0", "b"),
    )
    alike = settings(make_stage("a/train"), make_stage("b/train", seed=1))
    assert alike.tables == () and alike.notes == ("Members differ in their seeds alone.",)
    assert settings(make_stage("a/train")) is None
