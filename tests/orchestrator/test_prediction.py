"""Predicting image files: the same probabilities as the run's own, every bad input named, nothing half-written."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from record_committed import record_committed

from orchestrator.cli.program import main
from orchestrator.combine.averaging import Combined, equal
from orchestrator.config.schema import CombineConfig, CombineMethod, SubmissionConfig
from orchestrator.outputs import write_results
from orchestrator.plan.model import Plan, PlannedDataset, Stage, StageRef, plan_to_json
from orchestrator.prediction import find_images, predict
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import RunRecord, read_record, write_record
from workers.data.export import export
from workers.data.store.preparation import prepare
from workers.data.store.store import open_store
from workers.errors import DataError
from workers.inference.prediction import predict as predict_splits
from workers.protocol import Numerics, PredictSpec, StageSpec
from workers.settings.dataset import DatasetSettings, Source
from workers.settings.training import Crops, KeptCheckpoint, ModelSettings, OptimizerSettings, Recipe, ScheduleSettings
from workers.storage.finished import write_finished
from workers.training.stage import run_stage

_MEMBERS = ("b", "a")
_SETTINGS = Recipe(
    model=ModelSettings(input_size=16, width=0.05, conv1_kernel=3, conv1_stride=1, conv1_padding=1, fc_units=16),
    optimizer=OptimizerSettings(lr=0.02, batch_size=32),
    schedule=ScheduleSettings(epochs=1),
)


def _noise(path: Path, seed: int, bright: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    low = 128 if bright else 0
    pixels = np.random.default_rng(seed).integers(low, low + 128, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _stage(member: str) -> Stage:
    return Stage(
        ref=StageRef(member, "train"),
        recipe=replace(_SETTINGS, dataset="target"),
        init_from=None,
        member_seed=0,
        seed=ord(member),
        hash="h",
        num_images=30,
        num_updates=1,
        num_classes=2,
    )


def _train_and_predict(paths: RunPaths, stage: Stage, store: Path) -> None:
    spec = StageSpec(
        member=stage.ref.member,
        stage=stage.ref.stage,
        seed=stage.seed,
        recipe=stage.recipe,
        store=store,
        stage_dir=paths.stage(stage.ref),
        init_dir=None,
        numerics=Numerics(),
        checkpoint_updates=100,
        keep=KeptCheckpoint.last,
        stage_hash=stage.hash,
    )
    write_finished(spec.stage_dir, stage.hash, run_stage(spec, lambda: False))
    splits = ("dev", "val", "test")
    predict_splits(
        PredictSpec(
            spec.member, spec.stage_dir, store, paths.predictions(spec.member), splits, _SETTINGS, spec.numerics
        ),
        lambda: False,
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark and bright noise, 20 training images each, and five test images."""
    root = tmp_path_factory.mktemp("images")
    for index in range(20):
        _noise(root / "train" / "bright" / f"{index}.png", index, bright=True)
        _noise(root / "train" / "dark" / f"{index}.png", 100 + index, bright=False)
    for index in range(5):
        _noise(root / "test" / f"{index}.png", 200 + index, bright=bool(index % 2))
    return root


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A finished run of two members, combined geometrically."""
    paths = RunPaths(tmp_path_factory.mktemp("runs") / "run")
    settings = DatasetSettings(source=Source.folder, root=str(images), size=18)
    store = open_store(prepare(settings, tmp_path_factory.mktemp("store")))
    stages = tuple(_stage(member) for member in _MEMBERS)
    dataset = PlannedDataset("target", {}, store.classes, 2, dict(store.counts), declared=False)
    plan = Plan("tiny", "0" * 64, _MEMBERS, stages, (dataset,), {stage.ref.member: stage.ref for stage in stages})
    export(store, paths.data)
    for stage in stages:
        _train_and_predict(paths, stage, store.path)
    record = RunRecord(
        run_id="u",
        experiment=plan.experiment,
        plan=plan_to_json(plan),
        plan_hash=plan.hash,
        created=0.0,
        versions={},
        code_digest="",
        numerics=Numerics(),
        data_digests={"target": store.digest},
        stores={"target": str(store.path)},
    )
    write_record(paths, record)
    record_committed(paths, plan)
    write_results(paths, plan, CombineConfig(CombineMethod.geometric), SubmissionConfig())
    return paths


def test_prediction_of_the_test_images_is_that_of_the_run_bit_for_bit(run: RunPaths, images: Path) -> None:
    found = predict(run, [images / "test"], top=2, progress=lambda line: None)
    stored = [np.load(run.predictions(member) / "test.npy") for member in sorted(_MEMBERS)]
    wanted = Combined(stored, equal(CombineMethod.geometric, 2))[:]
    assert [Path(each.path).name for each in found] == [f"{index}.png" for index in range(5)]
    for each, row in zip(found, wanted, strict=True):
        assert {guess.name: guess.probability for guess in each.top} == {"bright": row[0], "dark": row[1]}
        assert each.top[0].probability >= each.top[1].probability


def test_prediction_takes_the_crops_that_the_run_has_kept(run: RunPaths, images: Path, tmp_path: Path) -> None:
    record = read_record(run)
    ten = predict(run, [images / "test"], top=2, progress=lambda line: None)
    store = Path(record.stores["target"])
    stored = []
    for member in sorted(_MEMBERS):
        stage_dir = run.stage(StageRef(member, "train"))
        spec = PredictSpec(
            member, stage_dir, store, tmp_path / member, ("test",), _SETTINGS, Numerics(), crops=Crops.centre
        )
        predict_splits(spec, lambda: False)
        stored.append(np.load(tmp_path / member / "test.npy"))
    wanted = Combined(stored, equal(CombineMethod.geometric, 2))[:]
    write_record(run, replace(record, crops=Crops.centre))
    try:
        found = predict(run, [images / "test"], top=2, progress=lambda line: None)
    finally:
        write_record(run, record)
    assert found != ten
    for each, row in zip(found, wanted, strict=True):
        assert {guess.name: guess.probability for guess in each.top} == {"bright": row[0], "dark": row[1]}


def test_prediction_of_a_bad_image_exits_3_names_it_and_writes_nothing(
    run: RunPaths, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    words = ["predict", str(run.root), str(images / "test"), str(bad), "--out", str(tmp_path / "out.csv")]
    assert main(words) == 3
    assert str(bad) in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jpg"]


def test_prediction_as_json_and_csv_say_the_same(
    run: RunPaths, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_prediction_into_a_file_of_unknown_format_exits_2(
    run: RunPaths, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(run.root), str(images / "test"), "--out", str(tmp_path / "out.xlsx")]) == 2
    assert ".csv or .json" in capsys.readouterr().err


def test_prediction_with_a_member_unfinished_exits_4_and_names_it(
    run: RunPaths, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run.done(StageRef("a", "train"))
    content = done.read_bytes()
    done.unlink()
    try:
        assert main(["predict", str(run.root), str(images / "test")]) == 4
    finally:
        done.write_bytes(content)
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
def test_prediction_with_a_manifest_that_does_not_serve_names_it(
    run: RunPaths, images: Path, capsys: pytest.CaptureFixture[str], alter: Callable[[str], str], code: int
) -> None:
    path = run.submission_manifest
    content = path.read_bytes()
    path.write_text(alter(content.decode()))
    try:
        assert main(["predict", str(run.root), str(images / "test")]) == code
    finally:
        path.write_bytes(content)
    assert "manifest.json: " in capsys.readouterr().err


def test_images_of_a_folder_are_found_at_any_depth_in_order_and_other_files_left_out(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/z.png", "a/notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images([tmp_path]) == (tmp_path / "a" / "z.png", tmp_path / "b.JPG")
    assert find_images([tmp_path / "a" / "notes.txt"]) == (tmp_path / "a" / "notes.txt",)


@pytest.mark.parametrize("given", ["absent.jpg", "empty"])
def test_images_that_are_not_there_are_a_data_error_that_names_them(given: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=given):
        find_images([tmp_path / given])
