"""A line of the submission taken apart: what members add is what the line says."""

import json
import math
import shutil
from functools import cache

import numpy as np
import pytest
from whole_run import alter_predictions, commit

from orchestrator.cli.program import main
from orchestrator.cluster.interface import Where
from orchestrator.config.composition import compose
from orchestrator.config.schema import CombineConfig, CombineMethod, SubmissionConfig, SubmissionFormat
from orchestrator.plan.model import StageRef, TrainJob
from orchestrator.run.ledger import AttemptEnd, Ledger, State
from orchestrator.run.paths import RunPaths
from workers.storage import atomic

pytestmark = pytest.mark.usefixtures("no_drawing")


@pytest.fixture(scope="module")
def committed(no_drawing, make_run, tmp_path_factory):
    """A run whose submission is as asked for; its third test image could not be read. Tests may only read it."""

    @cache
    def make(method=CombineMethod.mean, submission=SubmissionFormat.labels):
        run = make_run(tmp_path_factory.mktemp("committed") / "run", unreadable=(3,))
        atomic.write_text(run.paths.config_yaml, compose([]).yaml)
        ids = {"uri": "sqlite://", "run_id": "e", "members": {"base1": "f00d"}, "stages": {}}
        atomic.write_json(run.paths.run_json, json.loads(run.paths.run_json.read_text()) | {"mlflow": ids})
        commit(run, CombineConfig(method), SubmissionConfig(submission))
        return RunPaths(run.paths.root)

    return make


@pytest.fixture
def own_copy(committed, tmp_path):
    return RunPaths(shutil.copytree(committed().root, tmp_path / "run"))


def told(paths, image_id, capsys, *flags):
    assert main(["explain", str(paths.root), image_id, "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("method", list(CombineMethod))
def test_explain_contributions_of_every_class_add_up_to_the_line(committed, method, capsys):
    paths = committed(method, SubmissionFormat.probabilities)
    document = told(paths, "test_005.png", capsys, "--top", "12")
    lines = (paths.submission / "submission.csv").read_text().splitlines()
    assert document["line"] == lines[document["line_number"] - 1] == lines[6]
    line = dict(zip(lines[0].split(",")[1:], map(float, lines[6].split(",")[1:]), strict=True))
    assert {one["class"]: one["probability"] for one in document["combined"]} == pytest.approx(line, rel=1e-6)
    for place, one in enumerate(document["combined"]):
        parts = [member["contributions"][place] for member in document["members"]]
        assert {part["class"] for part in parts} == {one["class"]}
        total = sum(part["value"] for part in parts)
        if document["log_sum"] is not None:
            total = math.exp(total + sum(document["constants"][place : place + 1]) - document["log_sum"])
        assert total == pytest.approx(line[one["class"]], rel=1e-6)


def test_explain_calibrated_line_tells_temperature_uncertainty_and_what_it_was_before(own_copy, capsys):
    paths = own_copy
    plain = told(paths, "test_005.png", capsys)
    assert (plain["calibration"], plain["uncalibrated"]) == ("", [])
    path = paths.submission / "manifest.json"
    # Taken whatever it gains: a fit would leave these members alone.
    about = {"asked": "temperature", "split": "dev", "num_images": 80, "before": 1.5, "after": 1.4, "is_taken": True}
    atomic.write_json(path, json.loads(path.read_text()) | {"calibration": about | {"numbers": [2.5]}})
    document = told(paths, "test_005.png", capsys)
    assert document["calibration"] == "temperature (2.5)"
    assert document["uncalibrated"] == [one["probability"] for one in plain["combined"]]
    hot = np.array([one["probability"] for one in document["combined"]])
    cold = np.array(document["uncalibrated"])
    np.testing.assert_allclose(hot / hot[0], (cold / cold[0]) ** (1 / 2.5), rtol=1e-5)
    assert document["entropy"] > plain["entropy"]
    assert document["mutual_information"] == plain["mutual_information"] > 0
    assert document["set"][0] == document["prediction"]
    assert main(["explain", str(paths.root), "test_005.png"]) == 0
    said = capsys.readouterr().out
    for words in ("before calibration", "calibrated by temperature (2.5)", "entropy ", "prediction set: class"):
        assert words in said


def test_explain_tells_each_members_own_view_weight_run_and_checkpoint(committed, capsys):
    paths = committed(CombineMethod.weighted)
    document = told(paths, "test_007.png", capsys)
    manifest = json.loads((paths.submission / "manifest.json").read_text())
    assert {"id", "prediction", "members"} <= set(document)
    assert document["line"] == f"test_007.png,{document['prediction']}"
    assert [member["name"] for member in document["members"]] == ["base1", "base2", "base3", "deep1"]
    assert [member["run_id"] for member in document["members"]] == ["f00d", None, None, None]
    recorded = sorted(manifest["members"], key=lambda one: one["name"])
    for member, said in zip(document["members"], recorded, strict=True):
        assert member["weight"] == manifest["weights"][member["name"]]
        assert member["checkpoint_sha256"] == said["checkpoint_sha256"]
        row = np.load(paths.predictions(member["name"]) / "test.npy")[7]
        best = np.argsort(-row)[:5]
        assert [one["class"] for one in member["top"]] == [f"class{place:02d}" for place in best]
        assert [one["probability"] for one in member["top"]] == pytest.approx(row[best].tolist())


def test_explain_names_the_nodes_that_trained_a_member_in_order(own_copy, capsys):
    paths = own_copy
    assert {member["node"] for member in told(paths, "test_007.png", capsys)["members"]} == {""}
    said = json.loads((paths.submission / "manifest.json").read_text())["members"]
    (stage,) = {one["stage"] for one in said if one["name"] == "base1"}
    ledger, job = Ledger(paths.ledger), TrainJob(StageRef("base1", stage))
    for node, steps, end in (("w1", 4, AttemptEnd.lost), ("w3", 0, AttemptEnd.refused), ("w2", 10, AttemptEnd.done)):
        ledger.begin(job, started=0.0, resumed_from=0)
        ledger.place(job, Where(node, "10.0.0.1", 7, "CPU", node))
        ledger.reach(job, steps)
        ledger.end(job, end, State.waiting)
    first, *others = told(paths, "test_007.png", capsys)["members"]
    assert first["node"] == "w1 (10.0.0.1), then w2 (10.0.0.1)" and {one["node"] for one in others} == {""}
    assert main(["explain", str(paths.root), "test_007.png"]) == 0
    assert "  trained on w1 (10.0.0.1), then w2 (10.0.0.1), MLflow run " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("submission", "image_id", "row"),
    [
        (SubmissionFormat.kaggle_loc, "test_009", 9),
        (SubmissionFormat.kaggle_loc, "test_009.png", 9),
        (SubmissionFormat.tiny_imagenet, "test_009.png", 9),
        (SubmissionFormat.ilsvrc, "test_000.png", 0),
    ],
)
def test_explain_takes_ids_of_the_file_and_paths_of_rows(committed, submission, image_id, row, capsys):
    paths = committed(submission=submission)
    document = told(paths, image_id, capsys)
    (file,) = [path for path in paths.submission.iterdir() if path.stem == "submission"]
    assert document["row"] == f"test_{row:03d}.png"
    assert document["line"] == file.read_text().splitlines()[document["line_number"] - 1]
    assert document["prediction"] in document["line"]


def test_explain_follows_the_order_and_ids_of_a_template(own_copy, tmp_path, capsys):
    paths = own_copy
    template = tmp_path / "sample.csv"
    # A column with a line feed in its name: lines of the file are no longer those of the answers.
    template.write_text('"na\nme",x\n' + "".join(f"test_{row:03d},y\n" for row in reversed(range(80))))
    assert main(["submit", str(paths.root), f"submission.template={template}"]) == 0
    capsys.readouterr()
    document = told(paths, "test_078", capsys)
    assert (document["id"], document["row"], document["line_number"]) == ("test_078", "test_078.png", 4)


def test_explain_of_an_unreadable_image_says_that_it_counts_as_uniform(committed, capsys):
    paths = committed()
    document = told(paths, "test_003.png", capsys)
    assert document["unreadable"]
    assert all(one["probability"] == pytest.approx(1 / 12) for one in document["members"][0]["top"])
    assert main(["explain", str(paths.root), "test_003.png"]) == 0
    assert "could not be read: uniform" in capsys.readouterr().out


@pytest.mark.parametrize("method", [CombineMethod.mean, CombineMethod.geometric])
def test_explain_in_words_adds_up_as_printed(committed, method, capsys):
    paths = committed(method)
    assert main(["explain", str(paths.root), "test_005.png", "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = {line.split("  ")[0]: [float(word) for word in line.split()[-2:]] for line in lines if "  0." in line}
    values = np.array([table[name] for name in ("base1", "base2", "base3", "deep1")]).sum(axis=0)
    if method is CombineMethod.geometric:
        (missed,) = [line.split()[-2:] for line in lines if line.startswith("log of their sum")]
        values = np.exp(values + np.array(missed, dtype=float))
    np.testing.assert_allclose(values, table["the ensemble"], atol=5e-6)
    assert any("MLflow run f00d" in line for line in lines)


def test_explain_of_an_unknown_image_exits_3_and_of_altered_predictions_or_line_8(own_copy, capsys):
    paths = own_copy
    assert main(["explain", str(paths.root), "tset_042.png"]) == 3
    assert "test_042.png" in (said := capsys.readouterr().err) and said.count("\n") == 1
    path = paths.submission / "submission.csv"
    kept = path.read_text()
    path.write_text(kept.replace("test_005.png,class", "test_005.png,glass"))
    assert main(["explain", str(paths.root), "test_005.png"]) == 8
    assert "where the predictions give" in capsys.readouterr().err
    path.write_text(kept)
    alter_predictions(paths, "base2", "test")
    assert main(["explain", str(paths.root), "test_005.png"]) == 8
    assert "base2" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "code"), [(["nowhere", "x"], 3), (["run"], 2), (["run", "x", "y"], 2)])
def test_explain_of_nothing_says_what_it_needs(words, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["explain", *words]) == code


def test_explain_before_there_is_a_submission_exits_4(tmp_path, make_run, capsys):
    run = make_run(tmp_path / "run")
    assert main(["explain", str(run.paths.root), "test_005.png"]) == 4
    assert "no submission yet" in capsys.readouterr().err
