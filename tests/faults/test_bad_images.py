"""Bad images from end to end: strict stops with the list, skipping lists them; a test image always keeps its row."""

import csv
import json
import sqlite3
from contextlib import closing

import pytest
from bad_files import files
from command_line import write_ensemble
from pictures import noise

from orchestrator.cli.program import main

NUM_CLASSES = 2
# Files that cannot be read, and files that are read though they are not what they seem.
REFUSED = ("empty.jpg", "cut.jpg", "text.jpg", "bomb.png", "cut.tiff", "page.jpg", "script.jpg")
DECIDED = ("png.JPEG", "cmyk.jpg", "grey.jpg", "grey16.png", "palette.png")


@pytest.fixture
def root(tmp_path):
    """Two classes of good images; one has every kind of bad ones too, and so has the test split."""
    root = tmp_path / "images"
    for number in range(60):
        split = "val" if number % 3 == 0 else "train"
        path = root / split / "ab"[number % NUM_CLASSES] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(100 + number, 32, 32).save(path)
    (root / "test").mkdir()
    noise(300, 32, 32).save(root / "test" / "good.png")
    found = files("nowhere")
    for name in (*REFUSED, *DECIDED):
        content = found[name].content
        (root / "train" / "a" / name).write_bytes(content)
        (root / "test" / name).write_bytes(content + b" " if content else b"")
    return root


@pytest.fixture
def words(root, tmp_path, monkeypatch, in_threads):
    """A launch of one small member on them."""
    monkeypatch.chdir(tmp_path)
    write_ensemble(tmp_path / "groups", "solo", "solo")
    return [
        *("launch", "--config-dir=groups", "ensemble=solo", "run_dir=run", "datasets.store=store"),
        *("dataset@datasets.target=folder", f"datasets.target.root={root}", "datasets.target.size=32"),
        *("model=alexnet_32", "model.width=0.05", "model.fc_units=16", "optimizer.batch_size=20"),
        *("augmentation=none", "ensemble.stages.train.epochs=1", "cluster.cpus_per_member=1", "precision=fp32"),
        "submission=probabilities",
    ]


def test_skipped_images_are_listed_and_test_images_keep_their_rows(words, tmp_path, capsys):
    assert main([*words, "datasets.target.on_bad=skip"]) == 0
    said = capsys.readouterr()
    assert f"UNREADABLE: {len(REFUSED)} test images could not be read" in said.out
    # A launch counts what prepare lists.
    assert "target: left out of train: train/a/" in said.err and f"and {len(REFUSED) - 1} more left out" in said.err
    assert "target: 2 images: CMYK, converted to RGB" in said.err
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        logged = database.execute("SELECT value FROM latest_metrics WHERE key = 'data/test_unreadable'").fetchall()
    assert logged == [(len(REFUSED),)]
    (manifest,) = (tmp_path / "store").glob("*/manifest.json")
    told = json.loads(manifest.read_text())
    left_out = {entry["path"] for entry in told["left_out"]}
    assert left_out == {f"train/a/{name}" for name in REFUSED}
    assert all(entry["reason"] for entry in told["left_out"])
    with (tmp_path / "run" / "submission" / "submission.csv").open(newline="") as file:
        _, *rows = csv.reader(file)
    assert {row[0] for row in rows} == {"good.png", *REFUSED, *DECIDED}
    uniform = {row[0] for row in rows if row[1:] == [f"{1 / NUM_CLASSES:.9g}"] * NUM_CLASSES}
    assert uniform == set(REFUSED)
    said = json.loads((tmp_path / "run" / "submission" / "manifest.json").read_text())
    assert sorted(said["unreadable"]) == sorted(REFUSED)
