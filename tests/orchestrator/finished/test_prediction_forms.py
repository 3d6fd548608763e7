"""Files of predictions: blocks that are made apart are the bytes of one, and every form says the same numbers."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from orchestrator.combine.rows import ClassProbability
from orchestrator.config.schema import SubmissionFormat
from orchestrator.finished.ensemble import Prediction
from orchestrator.finished.prediction import Form, _check_out
from orchestrator.submission.formats import Question, Template, make_layout
from workers.errors import ConfigError

CLASSES = ("ant", "b,ee", "cat")
NAMES = tuple(f"{number}.png" for number in range(7))


@pytest.fixture
def probabilities():
    return np.random.default_rng(3).dirichlet(np.ones(3), len(NAMES)).astype(np.float32)


def _found(probabilities, top=2):
    predictions = []
    for name, row in zip(NAMES, probabilities, strict=True):
        best = [ClassProbability(CLASSES[place], float(row[place])) for place in np.argsort(-row)[:top]]
        predictions.append(Prediction(name, tuple(best), 0.25, 0.125, ("cat",)))
    return predictions


def _form(suffix, kind, template=None):
    if kind == "top":
        return Form(suffix, 2)
    question = Question(SubmissionFormat(kind), NAMES, CLASSES, np.empty((0, 2), np.int32), template)
    layout = make_layout(question)
    return Form(suffix, 0, question, replace(layout, ids=(), order=layout.order[:0]))


def _file(form, probabilities, step):
    found, file = _found(probabilities), io.BytesIO()
    parts = [slice(start, start + step) for start in range(0, len(NAMES), step)]
    form.join(
        (
            form.block((number, NAMES[part], NAMES[part]), found[part], probabilities[part])
            for number, part in enumerate(parts)
        ),
        file,
    )
    return file.getvalue()


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".csv", "top"),
        (".json", "top"),
        (".jsonl", "top"),
        (".csv", "probabilities"),
        (".csv", "labels"),
    ],
)
def test_blocks_of_any_size_join_to_the_bytes_of_one(suffix, kind, probabilities):
    form = _form(suffix, kind)
    whole = _file(form, probabilities, len(NAMES))
    assert _file(form, probabilities, 3) == _file(form, probabilities, 1) == whole
    assert _file(form, probabilities[::-1], 3) != whole


def test_every_form_says_the_same(probabilities):
    document = json.loads(_file(_form(".json", "top"), probabilities, 3))
    assert document == json.loads(json.dumps([one.to_json() for one in _found(probabilities)]))
    lines = _file(_form(".jsonl", "top"), probabilities, 3).decode().splitlines()
    assert [json.loads(line) for line in lines] == document
    table = pq.read_table(io.BytesIO(_file(_form(".parquet", "top"), probabilities, 3)))
    assert table.to_pylist() == document
    ranked = csv.DictReader(io.StringIO(_file(_form(".csv", "top"), probabilities, 3).decode()))
    for written, one in zip(ranked, document, strict=True):
        assert written["path"] == one["path"] and written["class_2"] == one["top"][1]["class"]
        assert np.float32(written["probability_1"]) == one["top"][0]["probability"]
        assert float(written["entropy"]) == one["entropy"] and written["set"] == ";".join(one["set"])


def test_column_a_class_has_every_probability_exactly(probabilities):
    header, *rows = csv.reader(io.StringIO(_file(_form(".csv", "probabilities"), probabilities, 3).decode()))
    assert header == ["id", *CLASSES] and [row[0] for row in rows] == list(NAMES)
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], np.float32), probabilities)


def test_columns_of_a_template_have_its_order(probabilities):
    template = Template(("image", "cat", "ant", "b,ee"), NAMES)
    header, *rows = csv.reader(io.StringIO(_file(_form(".csv", "probabilities", template), probabilities, 3).decode()))
    assert header == ["image", "cat", "ant", "b,ee"]
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], np.float32), probabilities[:, [2, 0, 1]])


@pytest.mark.parametrize(
    ("name", "form", "said"),
    [
        ("out.xlsx", "top", r"ends in \.csv or \.json or \.jsonl or \.parquet$"),
        ("out.jsonl", "probabilities", r"ends in \.csv$"),
        ("out.parquet", "sample.csv", r"ends in \.csv$"),
        ("out.csv", "probabilites", "--form probabilites: give top, probabilities, labels, or the file"),
        ("absent/out.csv", "top", "there is no folder"),
        ("folder.csv", "top", "is a folder"),
    ],
)
def test_file_that_cannot_be_made_as_asked_is_refused_before_any_work(name, form, said, tmp_path, monkeypatch):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "sample.csv").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        _check_out(tmp_path / name, form)
