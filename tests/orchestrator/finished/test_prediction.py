"""Predicting image files: the same probabilities as the run's own, every bad input named, nothing half-written."""

import csv
import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_stages import make_plan, make_record, make_stage
from noise_run import MEMBERS, SETTINGS, finished_run, noise, predict_spec_of, predicted
from PIL import Image
from pyarrow.parquet import read_table
from record_committed import record_committed

from orchestrator.cli.program import main
from orchestrator.combine.averaging import Combined, equal
from orchestrator.config.schema import CombineConfig, CombineMethod, SubmissionConfig
from orchestrator.execution.jobs import Work
from orchestrator.finished import ensemble
from orchestrator.outputs import write_results
from orchestrator.plan.model import StageRef, plan_from_json
from orchestrator.run.ledger import Budgets
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import read_record, write_record
from workers.data.decoding import Rules
from workers.data.export import export
from workers.data.store.preparation import prepare
from workers.data.store.store import open_store
from workers.inference.prediction import predict as predict_splits
from workers.protocol import Numerics
from workers.settings.dataset import DatasetSettings, Exif, Keep, Source
from workers.settings.training import Crops, KeptCheckpoint
from workers.storage.finished import write_finished
from workers.training.stage import run_stage


def _combined(folders):
    """What the members' test predictions give, image by image; they are combined in the order of their names."""
    rows = Combined([np.load(folder / "test.npy") for folder in folders], equal(CombineMethod.geometric, 2))[:]
    return [{"bright": row[0], "dark": row[1]} for row in rows]


def test_prediction_of_the_test_images_is_that_of_the_run_bit_for_bit(run, images):
    found = predicted(run, [images / "test"])
    assert [Path(each.path).name for each in found] == [f"{index}.png" for index in range(5)]
    wanted = _combined([run.predictions(member) for member in sorted(MEMBERS)])
    assert [{guess.name: guess.probability for guess in each.top} for each in found] == wanted
    assert all(each.top[0].probability >= each.top[1].probability for each in found)


@pytest.mark.parametrize("crops", [Crops.ten, Crops.five_scales])
def test_prediction_prepares_images_whole_as_the_runs_store_did(images, tmp_path_factory, crops):
    run = finished_run(images, tmp_path_factory, Keep.whole, crops)
    found = predicted(run, [images / "test"])
    wanted = _combined([run.predictions(member) for member in sorted(MEMBERS)])
    assert [{guess.name: guess.probability for guess in each.top} for each in found] == wanted


def test_prediction_takes_the_crops_that_the_run_has_kept(run, images, tmp_path):
    record = read_record(run)
    ten = predicted(run, [images / "test"])
    for stage in plan_from_json(record.plan).stages:
        folder = tmp_path / stage.ref.member
        spec = predict_spec_of(run, stage, Path(record.stores["target"]), folder, Crops.centre)
        predict_splits(spec, lambda: False)
    write_record(run, replace(record, crops=Crops.centre))
    try:
        found = predicted(run, [images / "test"])
    finally:
        write_record(run, record)
    assert found != ten
    wanted = _combined([tmp_path / member for member in sorted(MEMBERS)])
    assert [{guess.name: guess.probability for guess in each.top} for each in found] == wanted


def test_prediction_sees_images_as_the_member_that_inherits_its_normalisation_does(images, tmp_path):
    paths = RunPaths(tmp_path / "run")
    roots = {"target": images, "superset": tmp_path / "superset"}
    for index in range(20):
        for place, name in enumerate(("one", "two")):
            noise(roots["superset"] / "train" / name / f"{index}.png", 300 + 100 * place + index, bright=True)
    settings = {name: DatasetSettings(source=Source.folder, root=str(root), size=18) for name, root in roots.items()}
    stores = {name: prepare(one, tmp_path / "stores") for name, one in settings.items()}
    pre = make_stage("a/pre", images=30, num_classes=2, **(SETTINGS | {"dataset": "superset"}))
    fine = make_stage("a/fine", "a/pre", images=30, num_classes=2, reset=("head",), **SETTINGS)
    target = open_store(stores["target"])
    plan = make_plan(pre, fine, classes=target.classes)
    splits, kept = ("dev", "val", "test"), KeptCheckpoint.last
    work = Work(paths, plan, stores, target.digest, splits, Numerics(), kept, 100, Budgets(1, 1))
    export(target, paths.data)
    for stage in plan.stages:
        paths.member("a").mkdir(parents=True, exist_ok=True)
        spec = work.stage_spec(stage, 0)
        write_finished(spec.stage_dir, stage.hash, run_stage(spec, lambda: False))
    predict_splits(work.predict_spec("a"), lambda: False)
    digests = {"target": target.digest}
    record = make_record(plan, data_digests=digests, stores={name: str(path) for name, path in stores.items()})
    write_record(paths, record)
    record_committed(paths, plan)
    write_results(paths, plan, CombineConfig(CombineMethod.geometric), SubmissionConfig())
    found = predicted(paths, [images / "test"])
    rows = np.load(paths.predictions("a") / "test.npy")
    assert [{guess.name: guess.probability for guess in each.top} for each in found] == [
        {"bright": row[0], "dark": row[1]} for row in Combined([rows], equal(CombineMethod.geometric, 1))[:]
    ]
    own = replace(work.predict_spec("a"), predictions_dir=tmp_path / "own", normaliser=None)
    predict_splits(own, lambda: False)
    assert not np.array_equal(np.load(tmp_path / "own" / "test.npy"), rows)


def test_prediction_turns_images_as_the_store_of_the_run_does(run, tmp_path, monkeypatch):
    image = Image.fromarray(np.random.default_rng(7).integers(0, 256, (20, 25, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3
    image.save(tmp_path / "a.png", exif=exif)
    image.save(tmp_path / "b.png")
    image.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "c.png")
    tagged, stored, shown = (each.top for each in predicted(run, [tmp_path]))
    assert tagged == shown != stored
    monkeypatch.setattr(ensemble, "open_store", lambda path: replace(open_store(path), rules=Rules(Exif.ignore)))
    assert predicted(run, [tmp_path / "a.png"])[0].top == stored


@contextmanager
def _changed(path, content):
    """`content` in place of what a file of the shared run holds; None: without the file."""
    kept = path.read_bytes()
    path.unlink() if content is None else path.write_text(content)
    try:
        yield
    finally:
        path.write_bytes(kept)


def test_prediction_of_a_bad_image_exits_3_names_it_and_writes_nothing(run, images, tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    words = ["predict", str(run.root), str(images / "test"), str(bad), "--out", str(tmp_path / "out.csv")]
    assert main(words) == 3
    assert str(bad) in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jpg"]


def test_prediction_as_json_and_csv_say_the_same(run, images, tmp_path, capsys):
    out = tmp_path / "out.csv"
    image = str(images / "test" / "0.png")
    assert main(["predict", str(run.root), image, "--top", "1", "--json", "--out", str(out)]) == 0
    document = json.loads(capsys.readouterr().out)
    (guess,) = document[0]["top"]
    assert document[0]["path"] == image and set(guess) == {"class", "probability"}
    with out.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["path"], row["class_1"]) == (image, guess["class"])
    assert float(row["probability_1"]) == pytest.approx(guess["probability"], rel=1e-8)
    assert row["set"].split(";") == document[0]["set"]
    # As the submission's own file says it, whose image it is.
    stored = read_table(run.submission / "uncertainty.parquet").to_pylist()[0]
    for name in ("entropy", "mutual_information"):
        assert document[0][name] == float(row[name]) == stored[name]
    assert document[0]["set"] == stored["set"]


def test_prediction_into_a_file_of_unknown_format_exits_2(run, images, tmp_path, capsys):
    assert main(["predict", str(run.root), str(images / "test"), "--out", str(tmp_path / "out.xlsx")]) == 2
    assert ".csv or .json or .jsonl or .parquet" in capsys.readouterr().err


def test_prediction_with_a_member_unfinished_exits_4_and_names_it(run, images, capsys):
    with _changed(run.done(StageRef("a", "train")), None):
        assert main(["predict", str(run.root), str(images / "test")]) == 4
    assert "not finished: a;" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("alter", "code"),
    [
        (lambda text: text[:-9], 7),
        (lambda text: f"[{text}]", 7),
        (lambda text: json.dumps(json.loads(text) | {"method": "sum"}), 7),
        (lambda text: json.dumps(json.loads(text) | {"members": []}), 4),
    ],
)
def test_prediction_with_a_manifest_that_does_not_serve_names_it(run, images, capsys, alter, code):
    with _changed(run.submission_manifest, alter(run.submission_manifest.read_text())):
        assert main(["predict", str(run.root), str(images / "test")]) == code
    assert "manifest.json: " in capsys.readouterr().err
