"""Finished runs of earlier releases: every verb that reads a run reads them, and a resume says why it cannot."""

import json
import tarfile
from pathlib import Path

import pytest
from make_run import HERE, LAUNCH, MOVED, PLACE, septet, write_images

from septet import load as septet_load

RELEASES = sorted(path.name.removesuffix(".tar.gz") for path in HERE.glob("*.tar.gz"))


@pytest.fixture(scope="module", params=RELEASES)
def place(request, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("release")
    with tarfile.open(HERE / f"{request.param}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    for name in MOVED:
        (folder / name).write_text((folder / name).read_text().replace(PLACE, str(folder)))
    write_images(folder)
    return folder


def said(place, *words):
    ended = septet(place, *words)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_status_verify_and_explain_read_it(place):
    assert json.loads(said(place, "status", "run", "--json"))["state"] == "done"
    found = json.loads(said(place, "verify", "run", "--json"))
    assert found["ok"] and found["rebuilt"] and found["checked"]["prepared datasets"] == 1
    first = (place / "run/data/test.rows.txt").read_text().splitlines()[0]
    assert len(json.loads(said(place, "explain", "run", first, "--json"))["members"]) == 2


def test_predict_gives_the_release_s_probabilities(place):
    now = json.loads(said(place, "predict", "run", "images/test", "--json"))
    for one, other in zip(now, json.loads((place / "predicted.json").read_text()), strict=True):
        assert [guess["class"] for guess in one["top"]] == [guess["class"] for guess in other["top"]]
        probabilities = [guess["probability"] for guess in other["top"]]
        assert [guess["probability"] for guess in one["top"]] == pytest.approx(probabilities, abs=1e-5)


@pytest.mark.slow
def test_verbs_that_the_release_did_not_have_read_it(place):
    (listed,) = json.loads(said(place, "list", ".", "--json"))
    assert (listed["state"], listed["num_members"], listed["problem"]) == ("done", 2, None)
    assert json.loads(said(place, "compare", "run", "run", "--json"))["runs"][1]["p"] == 1
    assert "would free" in said(place, "clean", "run", "--dry-run")
    said(place, "predict", "run", "images/test", "--member", "base1", "--out", "predicted.parquet")
    said(place, "export", "run", "--out", "exported", "--to", "safetensors")
    assert (place / "exported/members/base1.safetensors").is_file()
    loaded = septet_load(place / "run")
    assert len(loaded.members) == 2 and not loaded.table.empty and not loaded.curves.empty


@pytest.mark.slow
def test_submit_and_report_make_the_same_files(place):
    submission, report = place / "run/submission/submission.csv", place / "run/report/scores.json"
    content, scores = submission.read_bytes(), json.loads(report.read_text())
    said(place, "submit", "run")
    said(place, "report", "run")
    assert submission.read_bytes() == content
    # Later releases add keys.
    assert json.loads(report.read_text()).items() >= scores.items()
    assert (place / "run/report/index.html").exists()
    said(place, "verify", "run")


def test_resume_says_in_one_line_why_the_bits_would_change(place):
    def refused(*more):
        ended = septet(place, "launch", *LAUNCH, *more)
        assert ended.returncode == 6
        (line,) = ended.stderr.strip().splitlines()
        return line

    assert "another plan: augmentation.normalisation: dataset → auto (in pretrained1/finetune)" in refused()
    line = refused("augmentation.normalisation=dataset")
    assert "since the run began, the code of workers/ (digest" in line and "--accept-changes" in line
