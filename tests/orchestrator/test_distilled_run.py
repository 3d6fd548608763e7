"""A student, added to a finished run in folds, from the launch to `verify`: scored beside the ensemble, used alone."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from no_tracker import NoTracker
from pictures import write_tree
from small_folds import launch
from whole_run import alter_predictions

from orchestrator.cli.program import main
from orchestrator.combine import STUDENT, Combined, equal
from orchestrator.config.schema import CombineConfig, CombineMethod, Metric, SubmissionConfig
from orchestrator.execution import jobs
from orchestrator.finished.ensemble import LoadedEnsemble
from orchestrator.outputs import rebuild_report, write_results
from orchestrator.plan import plan_from_json
from orchestrator.run import RunPaths, read_record, read_run_data
from orchestrator.submission import read_manifest
from orchestrator.verification.run import verify
from workers.errors import CheckFailed, MemberFailed
from workers.storage import sha256_of

pytestmark = pytest.mark.usefixtures("no_drawing")


class Scores(NoTracker):
    """Keeps the scores that it is told, by member."""

    def __init__(self):
        self.told = {}

    def log_scores(self, scores, member=""):
        self.told.setdefault(member, {}).update(scores)


@pytest.fixture(scope="module")
def launched(no_drawing, tmp_path_factory):
    """A run in folds, then the same with a student; what was there before, and what MLflow was told."""
    place, tracker = tmp_path_factory.mktemp("distilled"), Scores()
    assert launch(place, "ensemble=folds") == 0
    paths = RunPaths(place / "run")
    before = {path: (path.stat().st_mtime_ns, sha256_of(path)) for path in kept(paths)}
    submission = sha256_of(next(paths.submission.glob("submission.*")))
    assert launch(place, "ensemble=distilled", tracker=tracker) == 0
    return place, before, submission, tracker


def kept(paths):
    return [*paths.members.glob("base1-f*/**/*.npy"), *paths.members.glob("base1-f*/**/model.safetensors")]


@pytest.fixture
def run(launched, tmp_path):
    shutil.copytree(launched[0] / "run", tmp_path / "run")
    return RunPaths(tmp_path / "run")


def plan_of(paths):
    return plan_from_json(read_record(paths).plan)


def scores_of(paths):
    return json.loads(paths.report_scores.read_text())


def test_extension_by_a_student_trains_it_alone_and_leaves_the_submission(launched):
    place, before, submission, _ = launched
    paths = RunPaths(place / "run")
    assert before and {path: (path.stat().st_mtime_ns, sha256_of(path)) for path in kept(paths)} == before
    assert sha256_of(next(paths.submission.glob("submission.*"))) == submission
    assert set(plan_of(paths).members) == {"base1-f0", "base1-f1", "student"}
    manifest = read_manifest(paths)
    assert [(one.member, one.why) for one in manifest.missing] == [("student", STUDENT)]
    assert sorted(manifest.weights) == ["base1-f0", "base1-f1"]


def test_student_learned_from_the_oof_predictions_that_are_stored(run):
    newest = max(run.checkpoints(plan_of(run).last_stages["student"]).glob("step-*"))
    wanted = sorted(sha256_of(run.predictions(f"base1-f{number}") / "oof.npy") for number in range(2))
    assert json.loads((newest / "state.json").read_text())["taught_by"] == wanted


def test_scores_of_a_student_stand_beside_the_ensembles_with_the_paired_difference(run, launched):
    data, found = read_run_data(run.data), scores_of(run)
    labels = data.labels("test")
    wrong = {
        name: np.load(run.predictions(name) / "test.npy").argmax(axis=1) != labels
        for name in ("base1-f0", "base1-f1", "student")
    }
    student = found["students"]["student"]
    assert student["top1_error"] == pytest.approx(wrong["student"].mean())
    apart = student["than_ensemble"]
    assert apart["estimate"] == pytest.approx(student["top1_error"] - found["ensemble"]["top1_error"])
    assert apart["low"] <= apart["estimate"] <= apart["high"]
    members = np.mean([wrong["base1-f0"].mean(), wrong["base1-f1"].mean()])
    assert student["than_members"]["estimate"] == pytest.approx(wrong["student"].mean() - members)
    assert "students" not in found["splits"]["oof"], "it was trained on these images"
    assert "student" not in found["members"] and "student" not in found["worth"]["members"]
    told = launched[3].told["student"]
    assert told["final/top1_error"] == student["top1_error"] and told["final/nll"] == student["nll"]
    split, ensemble = scores_of(run)["split"], launched[3].told[""]
    assert told[f"{split}/top1_error"] == student["top1_error"], "the name that members and the ensemble share"
    assert ensemble[f"{split}/top1_error"] == ensemble["ensemble/top1_error"]


def test_table_and_page_have_the_student_below_the_ensemble(run):
    results = write_results(run, plan_of(run), CombineConfig(), SubmissionConfig())
    rows = [line for line in results.table_text.splitlines() if line.startswith(("2 CNNs", "student, distilled"))]
    assert [row.split()[0] for row in rows] == ["2", "student,"]
    assert "STUDENT: student, one net: top-1 error " in results.table_text
    assert "than the ensemble (95 % interval " in results.table_text
    assert "MISSING" not in results.table_text
    assert "student, distilled" in run.report_page.read_text()
    table = run.report_table.read_text()
    assert table.count("STUDENT:") == 1
    rebuild_report(run, plan_of(run), CombineConfig(), Metric.top1)
    assert run.report_table.read_text() == table


def test_run_with_a_student_verifies_and_a_changed_one_is_told(run):
    found = verify(run)
    assert found.ok and found.rebuilt, found.problems
    assert found.checked["files of predictions"] == 2 * 3 + 2
    told = scores_of(run)
    told["students"]["student"]["top1_error"] += 0.01
    run.report_scores.write_text(json.dumps(told))
    assert any("students.student.top1_error" in one.what for one in verify(run).problems)


def test_damaged_predictions_of_a_student_are_told_and_missing_ones_leave_the_ensemble(run):
    alter_predictions(run, "student", "test")
    assert any("student" in one.what and "altered" in one.what for one in verify(run).problems)
    with pytest.raises(CheckFailed, match=r"member student: .*test.npy was altered"):
        write_results(run, plan_of(run), CombineConfig(), SubmissionConfig())
    shutil.rmtree(run.predictions("student"))
    assert any("student: no predictions of test" in one.what for one in verify(run).problems)
    results = write_results(run, plan_of(run), CombineConfig(), SubmissionConfig())
    assert "STUDENT" not in results.table_text and results.submission is not None


def test_calibration_and_stacking_do_not_ask_a_student(run):
    write_results(run, plan_of(run), CombineConfig(CombineMethod.stacked), SubmissionConfig())
    assert read_manifest(run).fit.split == "oof"
    assert verify(run).ok


@pytest.fixture
def images(tmp_path):
    return write_tree(tmp_path / "images", {f"{number}.png": number for number in range(3)})


def predicted(run, images, capsys, *words):
    assert main(["predict", str(run.root), str(images), "--json", "--top", "10", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    return [sorted((one["class"], one["probability"]) for one in image["top"]) for image in found], found


def test_predict_answers_with_one_member_alone(run, images, capsys, monkeypatch):
    asked, whole = [], LoadedEnsemble.predict

    def noted(ensemble, *rest):
        asked.append(ensemble.members)
        return whole(ensemble, *rest)

    monkeypatch.setattr(LoadedEnsemble, "predict", noted)
    every, _ = predicted(run, images, capsys)
    one, found = predicted(run, images, capsys, "--member", "student")
    assert sorted(asked[0]) == ["base1-f0", "base1-f1"] and asked[1] == ("student",)
    assert one != every
    assert all(image["mutual_information"] == 0 and image["set"] is None for image in found)
    teachers = [predicted(run, images, capsys, "--member", f"base1-f{number}")[0] for number in range(2)]
    mean = Combined([as_rows(one) for one in teachers], equal(CombineMethod.mean, 2))[0:3]
    np.testing.assert_allclose(mean, as_rows(every), atol=1e-7)


def as_rows(found):
    return np.array([[probability for _, probability in image] for image in found], np.float32)


def test_predict_refuses_an_unknown_member_with_the_nearest_name(run, images, capsys):
    assert main(["predict", str(run.root), str(images), "--member", "studnet"]) == 2
    assert "--member studnet: the run has no such member; did you mean student?" in capsys.readouterr().err
    run.done(plan_of(run).last_stages["student"]).unlink()
    assert main(["predict", str(run.root), str(images), "--member", "student"]) == 4
    assert main(["predict", str(run.root), str(images)]) == 0


def test_launch_again_trains_nothing_and_a_student_that_fails_leaves_a_submission(
    launched, tmp_path, capsys, monkeypatch
):
    shutil.copytree(launched[0], tmp_path / "place")
    place = tmp_path / "place"
    assert launch(place, "ensemble=distilled") == 0
    assert "running" not in capsys.readouterr().err.replace("run: running", "")
    paths = RunPaths(place / "run")
    shutil.rmtree(paths.member("student"))

    def broken(self, ref):
        teacher = real(self, ref)
        return replace(teacher, sha256="0" * 64)

    real = jobs.Work._teacher
    monkeypatch.setattr(jobs.Work, "_teacher", broken)
    assert launch(place, "ensemble=distilled") == 4
    shown = capsys.readouterr()
    assert "changed since it was predicted" in shown.err
    assert "a submission of 2 of 3 members was written, without student" in shown.err
    assert "MISSING: student is not in any row and not in the submission (student/train: CheckFailed" in shown.out
    assert "student" not in scores_of(paths).get("students", {})
    assert verify(paths).ok


def test_oof_predictions_changed_before_the_student_is_done_are_made_again(launched, tmp_path):
    shutil.copytree(launched[0], tmp_path / "place")
    paths = RunPaths(tmp_path / "place" / "run")
    oof = paths.predictions("base1-f0") / "oof.npy"
    digests = (sha256_of(oof), sha256_of(next(paths.member("student").glob("train/checkpoints/*/model.safetensors"))))
    shutil.rmtree(paths.member("student"))
    alter_predictions(paths, "base1-f0", "oof")
    assert launch(tmp_path / "place", "ensemble=distilled") == 0
    again = next(paths.member("student").glob("train/checkpoints/*/model.safetensors"))
    assert (sha256_of(oof), sha256_of(again)) == digests


def test_submit_with_min_members_counts_the_ensemble_alone(run):
    with pytest.raises(MemberFailed, match="1 of 2 members have predictions"):
        (run.predictions("base1-f1") / "test.json").unlink()
        write_results(run, plan_of(run), CombineConfig(), SubmissionConfig(min_members=2))


def test_student_without_test_val_and_dev_is_trained_and_used_though_nothing_can_score_it(tmp_path, capsys):
    files = {f"train/{name}/{index}.png": 20 * place + index for place, name in enumerate("ab") for index in range(9)}
    root = write_tree(tmp_path / "images", files)
    data = ("dataset@datasets.target=folder", f"datasets.target.root={root}", "datasets.target.size=32")
    assert launch(tmp_path, "ensemble=distilled", *data, "datasets.target.dev_fraction=0", "schedule=cosine") == 0
    assert "STUDENT" not in capsys.readouterr().out
    paths = RunPaths(tmp_path / "run")
    assert verify(paths).ok and scores_of(paths)["split"] == "oof"
    assert main(["predict", str(paths.root), str(root / "train" / "a" / "0.png"), "--member", "student"]) == 0
