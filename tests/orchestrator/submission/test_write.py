"""RUN_DIR/submission: the file, its manifest, and what keeps the last one in its place."""

import csv
import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from asked_rows import ALL_FORMATS, CLASSES, NUM_ROWS, draw, make_question, names_of, write
from book_in_memory import book_in_memory
from fake_stages import plan_of

from orchestrator.combine.averaging import mean
from orchestrator.combine.predictions import MemberPredictions
from orchestrator.config.schema import SubmissionConfig, SubmissionFormat
from orchestrator.run.data import RunData, SplitData
from orchestrator.run.paths import RunPaths
from orchestrator.submission.check import check_submission
from orchestrator.submission.formats import file_lines, make_layout
from orchestrator.submission.manifest import read_manifest
from orchestrator.submission.write import ask, read_named, write_submission
from workers.errors import CheckFailed, ConfigError
from workers.protocol import SplitPredictions

PLAN = plan_of({"a": {"main": None}, "b": {"main": None}})


def make_data(unreadable=(), splits=("val", "test")):
    question = make_question(SubmissionFormat.labels)
    digest = hashlib.sha256("".join(f"{row}\n" for row in question.rows).encode()).hexdigest()
    return RunData(
        "data-digest",
        CLASSES,
        {name: SplitData(name, question.rows, digest, None, question.sizes, unreadable) for name in splits},
    )


def store_member(folder, name, seed, unreadable):
    path = folder / f"{name}.npy"
    np.save(path, draw(seed))
    offset = int(np.load(path, mmap_mode="r").offset)
    about = SplitPredictions("test", NUM_ROWS, len(CLASSES), "r", "d", f"sha-{name}", "step-7", f"checkpoint-{name}")
    return MemberPredictions(name, path, about, offset, unreadable)


def submit(tmp_path, config, unreadable=()):
    members = tuple(store_member(tmp_path, name, seed, unreadable) for seed, name in enumerate(("a", "b")))
    data, book = make_data(unreadable), book_in_memory()
    return write_submission(tmp_path / "submission", config, data, mean(members), members, PLAN, (), book)


@pytest.mark.parametrize("submission_format", ALL_FORMATS)
def test_write_submission_leaves_one_file_and_a_manifest_of_it(tmp_path, submission_format):
    digests = submit(tmp_path, SubmissionConfig(submission_format))
    files = contents(tmp_path)
    assert set(files) == {digests.file, "manifest.json", "uncertainty.parquet"}
    manifest = json.loads(files["manifest.json"])
    assert read_manifest(RunPaths(tmp_path)).to_text().encode() == files["manifest.json"]
    assert digests.manifest_sha256 == hashlib.sha256(files["manifest.json"]).hexdigest()
    assert manifest["sha256"] == digests.sha256 == hashlib.sha256(files[digests.file]).hexdigest()
    assert manifest["format"] == submission_format.value
    assert (manifest["split"], manifest["num_rows"], manifest["method"]) == ("test", NUM_ROWS, "mean")
    assert [one["name"] for one in manifest["members"]] == ["a", "b"]
    of_b = {
        "weight": 0.5,
        "stage_hash": PLAN.last_stage("b").hash,
        "predictions_sha256": "sha-b",
        "checkpoint_sha256": "checkpoint-b",
    }
    assert manifest["members"][1].items() >= of_b.items()


def contents(tmp_path):
    return {path.name: path.read_bytes() for path in (tmp_path / "submission").iterdir()}


def test_write_submission_again_gives_the_same_bytes_and_in_another_format_replaces_the_file(tmp_path):
    submit(tmp_path, SubmissionConfig(SubmissionFormat.ilsvrc))
    submit(tmp_path, SubmissionConfig(SubmissionFormat.labels))
    before = contents(tmp_path)
    assert sorted(before) == ["manifest.json", "submission.csv", "uncertainty.parquet"]
    submit(tmp_path, SubmissionConfig(SubmissionFormat.labels))
    assert contents(tmp_path) == before


def test_write_submission_bad_template_changes_nothing(tmp_path):
    submit(tmp_path, SubmissionConfig(SubmissionFormat.ilsvrc))
    before = contents(tmp_path)
    template = tmp_path / "sample.csv"
    template.write_text("id,label\nelsewhere.png,0\n")
    with pytest.raises(ConfigError, match="elsewhere"):
        submit(tmp_path, SubmissionConfig(SubmissionFormat.labels, template=str(template)))
    assert contents(tmp_path) == before


def test_write_submission_failed_check_keeps_the_last_one(tmp_path, monkeypatch):
    submit(tmp_path, SubmissionConfig(SubmissionFormat.labels))
    before = contents(tmp_path)

    def last_line_lost(*arguments):
        return list(file_lines(*arguments))[:-1]

    monkeypatch.setattr("orchestrator.submission.write.file_lines", last_line_lost)
    with pytest.raises(CheckFailed, match="fewer lines"):
        submit(tmp_path, SubmissionConfig(SubmissionFormat.labels))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("submission_format", ALL_FORMATS)
def test_write_submission_predictions_cut_after_their_check_keeps_the_last_one(tmp_path, submission_format):
    config = SubmissionConfig(submission_format)
    submit(tmp_path, config)
    before = contents(tmp_path)
    members = tuple(store_member(tmp_path, name, seed, ()) for seed, name in enumerate(("a", "b")))
    content = members[1].path.read_bytes()
    members[1].path.write_bytes(content[:-4])
    with pytest.raises(CheckFailed, match="became shorter"):
        book = book_in_memory()
        write_submission(tmp_path / "submission", config, make_data(), mean(members), members, PLAN, (), book)
    assert contents(tmp_path) == before


def test_write_submission_unreadable_images_keep_their_rows_uniform(tmp_path):
    digests = submit(tmp_path, SubmissionConfig(SubmissionFormat.probabilities), unreadable=(4, 29))
    lines = list(csv.reader(io.StringIO(contents(tmp_path)[digests.file].decode())))[1:]
    assert len(lines) == NUM_ROWS
    for row in (4, 29):
        np.testing.assert_allclose(np.float64(lines[row][1:]), 1 / 7, rtol=1e-6)
    assert not np.allclose(np.float64(lines[5][1:]), 1 / 7)
    assert read_manifest(RunPaths(tmp_path)).unreadable == ("test_04.JPEG", "test_29.JPEG")


def test_write_submission_ilsvrc_without_ids_says_so_in_the_manifest(tmp_path):
    submit(tmp_path, SubmissionConfig(SubmissionFormat.ilsvrc))
    assert "position in data/classes.txt" in read_manifest(RunPaths(tmp_path)).class_ids
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"{name} {index + 1}\n" for index, name in enumerate(CLASSES)))
    submit(tmp_path, SubmissionConfig(SubmissionFormat.ilsvrc, class_ids=str(ids)))
    manifest = read_manifest(RunPaths(tmp_path))
    assert manifest.class_ids == "ids from submission.class_ids"
    assert manifest.class_ids_file.sha256 == hashlib.sha256(ids.read_bytes()).hexdigest()


def test_ids_of_the_dataset_are_written_in_ilsvrc_alone_and_class_ids_beat_them(tmp_path):
    data = replace(make_data(), class_ids=tuple(str(900 + index) for index in range(len(CLASSES))))
    own = ask(SubmissionConfig(SubmissionFormat.ilsvrc), data)
    assert names_of(own) == data.class_ids
    for other in set(ALL_FORMATS) - {SubmissionFormat.ilsvrc}:
        assert names_of(ask(SubmissionConfig(other), data)) == CLASSES
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"{name} {index + 1}\n" for index, name in enumerate(CLASSES)))
    given = ask(SubmissionConfig(SubmissionFormat.ilsvrc, class_ids=str(ids)), data)
    assert names_of(given) == tuple(str(index + 1) for index in range(len(CLASSES)))
    # Read again by the dataset's ids; by positions every line would be of other classes.
    path = write(tmp_path / "file", own, make_layout(own), draw())
    check_submission(path, own, draw())
    with pytest.raises(CheckFailed):
        check_submission(path, replace(own, class_ids=None), draw())


def test_read_named_missing_files_are_config_errors(tmp_path):
    read_named(SubmissionConfig())
    with pytest.raises(ConfigError, match=r"submission.template=.*nowhere.csv: No such file"):
        read_named(SubmissionConfig(template=str(tmp_path / "nowhere.csv")))
    with pytest.raises(ConfigError, match=r"submission.class_ids=.*nowhere.txt: No such file"):
        read_named(SubmissionConfig(class_ids=str(tmp_path / "nowhere.txt")))
