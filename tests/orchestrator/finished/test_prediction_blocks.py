"""Predictions in blocks: in order, continued to the same bytes, on other processes too, bad images named or listed."""

import csv
import json
import pickle
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from noise_run import finished_run, noise

from orchestrator.cli.program import main
from orchestrator.finished import prediction
from orchestrator.finished.prediction import Asked, predict_as
from workers.errors import SourceLost, StorageError
from workers.settings.dataset import Keep
from workers.settings.training import Crops


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    return finished_run(images, tmp_path_factory, Keep.centre, Crops.centre)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(prediction, "_BLOCK_IMAGES", 2)


@pytest.fixture
def photos(tmp_path):
    """Seven images, so four blocks."""
    for index in range(7):
        noise(tmp_path / "photos" / "ab"[index % 2] / f"{index}.png", index, bright=bool(index % 3))
    return tmp_path / "photos"


def _predict(run, photos, out, said=None, **options):
    say = (lambda line: None) if said is None else said.append
    return predict_as(Asked(run, 2, out=out, **options), [str(photos)], say)


def _predicted(monkeypatch):
    """Returns a list that gets the names of each block that is predicted."""
    predict_block, seen = prediction._predict_block, []

    def seeing(asked, ensemble, block, *progress):
        seen.append(block[1])
        return predict_block(asked, ensemble, block, *progress)

    monkeypatch.setattr(prediction, "_predict_block", seeing)
    return seen


class _KilledError(BaseException):
    pass


def _kill_before(monkeypatch, number):
    """Ends the next prediction as a signal does, before the block of that number is kept."""
    write, written = prediction.write_bytes, []

    def writing(path, data):
        if len(written) == number:
            raise _KilledError
        written.append(path)
        write(path, data)

    monkeypatch.setattr(prediction, "write_bytes", writing)
    return lambda: monkeypatch.setattr(prediction, "write_bytes", write)


@pytest.mark.parametrize(
    ("name", "form"), [("out.csv", "top"), ("out.json", "top"), ("out.parquet", "top"), ("out.csv", "labels")]
)
def test_interrupted_prediction_continues_to_the_bytes_of_an_undisturbed_one(
    run, photos, tmp_path, monkeypatch, name, form
):
    undisturbed, out = tmp_path / f"undisturbed{Path(name).suffix}", tmp_path / name
    _predict(run, photos, undisturbed, form=form)
    revive = _kill_before(monkeypatch, 2)
    with pytest.raises(_KilledError):
        _predict(run, photos, out, form=form)
    revive()
    assert not out.exists() and len(list((tmp_path / f"{name}.parts").iterdir())) == 2
    seen, said = _predicted(monkeypatch), []
    _predict(run, photos, out, said, form=form)
    assert len(seen) == 2 and f"{out}.parts: 2 of 4 blocks are there" in said
    assert out.read_bytes() == undisturbed.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["photos", undisturbed.name, name])


def test_kept_block_is_not_used_for_another_image_of_that_name_or_another_question(run, photos, tmp_path, monkeypatch):
    out = tmp_path / "out.csv"
    revive = _kill_before(monkeypatch, 3)
    with pytest.raises(_KilledError):
        _predict(run, photos, out)
    revive()
    shutil.copytree(tmp_path / "out.csv.parts", tmp_path / "kept")
    noise(photos / "a" / "0.png", 99, bright=True)
    seen = _predicted(monkeypatch)
    _predict(run, photos, out)
    assert [len(names) for names in seen] == [2, 1] and str(photos / "a" / "0.png") in seen[0]
    changed = out.read_bytes()
    for options in ({"form": "labels"}, {"member": "a"}, {"lists_bad": True}):
        seen.clear()
        shutil.copytree(tmp_path / "kept", tmp_path / "out.csv.parts")
        _predict(run, photos, out, **options)
        assert len(seen) == 4
    _predict(run, photos, out)
    assert out.read_bytes() == changed


def test_predictions_in_a_file_are_those_that_are_shown_whatever_the_blocks(run, photos, tmp_path, monkeypatch):
    shown = predict_as(Asked(run, 2), [str(photos)], lambda line: None)
    _predict(run, photos, tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == json.loads(json.dumps([one.to_json() for one in shown]))
    monkeypatch.setattr(prediction, "_BLOCK_IMAGES", 32)
    _predict(run, photos, tmp_path / "one.jsonl")
    whole = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    assert [one["path"] for one in whole] == [one.path for one in shown]
    for one, other in zip(whole, shown, strict=True):
        assert one["top"][0]["probability"] == pytest.approx(other.top[0].probability, abs=1e-6)


def test_images_of_an_object_store_are_predicted_as_files_are(run, photos, tmp_path):
    system = fsspec.filesystem("memory")
    system.put(str(photos), f"{tmp_path}/store", recursive=True)
    found = predict_as(Asked(run, 2), [f"memory://{tmp_path}/store"], lambda line: None)
    assert [one.top for one in found] == [
        one.top for one in predict_as(Asked(run, 2), [str(photos)], lambda line: None)
    ]
    assert found[0].path == f"memory://{tmp_path}/store/a/0.png"


def test_bad_image_among_blocks_ends_with_its_name_and_the_blocks_before_it_are_kept(run, photos, tmp_path, capsys):
    (photos / "b" / "3.png").write_bytes(b"no image")
    out = tmp_path / "out.csv"
    assert main(["predict", str(run.root), str(photos), "--out", str(out)]) == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert "b/3.png: cannot be read as an image (" in line and "--on-bad list" in line
    assert not out.exists() and len(list((tmp_path / "out.csv.parts").iterdir())) == 2


@pytest.mark.parametrize("killed_before", [None, 3])
def test_listed_bad_images_have_uniform_probabilities_and_the_others_their_own(
    run, photos, tmp_path, monkeypatch, killed_before
):
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    _predict(run, photos, whole, form="probabilities")
    bad = photos / "b" / "3.png"
    bad.write_bytes(b"no image")
    if killed_before:
        revive = _kill_before(monkeypatch, killed_before)
        with pytest.raises(_KilledError):
            _predict(run, photos, out, form="probabilities", lists_bad=True)
        revive()
    said = []
    _predict(run, photos, out, said, form="probabilities", lists_bad=True)
    lines, wanted = out.read_text().splitlines(), whole.read_text().splitlines()
    wanted[next(row for row, line in enumerate(wanted) if line.startswith(str(bad)))] = f"{bad},0.5,0.5"
    assert lines == wanted
    (line,) = (tmp_path / "out.csv.unreadable.txt").read_text().splitlines()
    assert line.startswith(f"{bad}: ") and len(line) > len(f"{bad}: ")
    assert said[-1].endswith(f"; 1 cannot be read and have uniform probabilities: {out}.unreadable.txt")


def _on_other_processes(settings, needs, function, given, jobs):
    """Works like tasks of a cluster: from pickles, the last job first."""
    for job in reversed(list(jobs)):
        yield job, _sent(_sent(function)(_sent(given), _sent(job), needs.code))


def _sent(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_predictions_of_a_clusters_processes_are_the_same_bytes(run, photos, tmp_path, monkeypatch, name):
    local, out = tmp_path / f"local{Path(name).suffix}", tmp_path / name
    monkeypatch.chdir(photos)
    predict_as(Asked(run, 2, out=local), ["."], print)
    monkeypatch.setattr("orchestrator.cluster.run_tasks", _on_other_processes, raising=False)
    predict_as(Asked(run, 2, out=out, cluster="auto"), ["."], print)
    assert out.read_bytes() == local.read_bytes()
    shown = predict_as(Asked(run, 2, cluster="auto"), ["."], print)
    assert shown == predict_as(Asked(run, 2), ["."], lambda line: None)


def test_image_that_a_node_alone_cannot_read_is_no_bad_image(run, photos, tmp_path, monkeypatch):
    def without_mount(settings, needs, function, given, jobs):
        for job in jobs:
            yield job, (b"", [(job[1][0], "No such file or directory")], ())

    monkeypatch.setattr("orchestrator.cluster.run_tasks", without_mount, raising=False)
    with pytest.raises(StorageError, match=r"0\.png: a node cannot read it \(No such file .*mount the shared storage"):
        _predict(run, photos, tmp_path / "out.csv", lists_bad=True, cluster="auto")


def _sample(tmp_path, header, ids):
    path = tmp_path / "sample.csv"
    path.write_text(
        "".join(f"{line}\n" for line in [header, *(f"{each},0,0"[: len(each) + 2 * header.count(",")] for each in ids)])
    )
    return path


def test_file_follows_a_template_in_ids_order_and_columns(run, photos, tmp_path):
    ids = ["3", "0", "6", "1", "2", "5", "4"]
    out = tmp_path / "out.csv"
    _predict(run, photos, out, form=_sample(tmp_path, "image,dark,bright", ids))
    shown = {
        Path(one.path).stem: {guess.name: guess.probability for guess in one.top}
        for one in predict_as(Asked(run, 2), [str(photos)], print)
    }
    with out.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "dark", "bright"] and [row[0] for row in rows[1:]] == ids
    for image_id, *values in rows[1:]:
        own = shown[image_id]
        np.testing.assert_allclose(np.array(values, np.float32), [own["dark"], own["bright"]], atol=1e-6)
    _predict(run, photos, out, form=_sample(tmp_path, "image,label", ids))
    lines = out.read_text().splitlines()
    best = [max(own, key=own.__getitem__) for own in (shown[each] for each in ids)]
    assert lines == ["image,label", *(f"{image_id},{label}" for image_id, label in zip(ids, best, strict=True))]


@pytest.mark.parametrize(
    ("header", "ids", "said"),
    [
        ("id,dark,bright", [*"01234567"], "--form: no image for its ids 7;"),
        ("id,dark,bright", [*"012345"], "--form lacks ids of the images 6;"),
        ("id,dark,light", [*"0123456"], "--form: columns and classes differ in bright, light;"),
        ("ImageId,PredictionString", [*"0123456"], "no boxes are written; see submission=kaggle_loc"),
    ],
)
def test_template_that_does_not_fit_is_refused_and_says_where(run, photos, tmp_path, capsys, header, ids, said):
    words = ["--form", str(_sample(tmp_path, header, ids)), "--out", str(tmp_path / "out.csv")]
    assert main(["predict", str(run.root), str(photos), *words]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("words", [["--form", "labels"], ["--form", "sample.csv"]])
def test_form_without_a_file_is_refused(run, photos, capsys, words):
    assert main(["predict", str(run.root), str(photos), *words]) == 2
    assert "add --out FILE" in capsys.readouterr().err


def test_progress_says_now_and_then_how_much_is_left(run, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "_SAID_EVERY_S", 0.0)
    said = []
    _predict(run, photos, tmp_path / "out.csv", said)
    assert said[0].startswith("2 images predicted, ") and said[0].endswith(" left")
    assert "images/s; 5 images and " in said[0]
    assert said[-1] == f"7 images: {tmp_path / 'out.csv'}" and len(said) == 4


def test_outage_of_a_store_is_no_bad_image(run, monkeypatch, tmp_path):
    def lose(name, folder):
        raise SourceLost("s3://bucket/x.png: cannot be read")

    monkeypatch.setattr(prediction, "read_image", lose)
    noise(tmp_path / "x.png", 1, bright=True)
    with pytest.raises(SourceLost):
        predict_as(Asked(run, 2, lists_bad=True), [str(tmp_path / "x.png")], print)
