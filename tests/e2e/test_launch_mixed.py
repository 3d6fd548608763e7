"""Members of different architectures, torchvision's among them, from one command on photographs."""

import json
import shutil

import numpy as np
import pytest
from one_slot import one_slot

from orchestrator import cluster
from orchestrator.cli.program import main

NUM_CLASSES, NUM_TRAIN, NUM_VAL = 3, 12, 4
MEMBERS = {"alexnet", "lenet5", "highway", "resnet18", "googlenet", "squeezenet"}


@pytest.fixture
def few_photographs(real_images, tmp_path):
    """A handful of photographs of three classes: train/<class>/* and val/<class>/*."""
    root = tmp_path / "photographs"
    for folder in sorted((real_images / "train").iterdir())[:NUM_CLASSES]:
        for split, chosen in {"train": slice(NUM_TRAIN), "val": slice(NUM_TRAIN, NUM_TRAIN + NUM_VAL)}.items():
            target = root / split / folder.name
            target.mkdir(parents=True)
            for path in sorted(path for path in folder.rglob("*") if path.is_file())[chosen]:
                shutil.copy(path, target)
    return root


@pytest.mark.soak
def test_launch_averages_different_nets(few_photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "open_cluster", one_slot)
    monkeypatch.chdir(tmp_path)
    small = ("model.width=0.1", "model.fc_units=32", "optimizer.batch_size=16", "ensemble.stages.train.epochs=1")
    words = ["experiment=tiny_imagenet", "ensemble=mixed", f"datasets.target.root={few_photographs}", *small]
    assert main(["launch", "run_dir=run", "datasets.store=store", "cluster.cpus_per_member=1", *words]) == 0
    run = tmp_path / "run"
    lines = (run / "submission" / "submission.txt").read_text().splitlines()
    assert len(lines) == NUM_CLASSES * NUM_VAL
    scores = json.loads((run / "report" / "scores.json").read_bytes())
    assert scores["members"].keys() == MEMBERS
    predictions = {member: np.load(run / "members" / member / "predictions" / "val.npy") for member in MEMBERS}
    for member, own in predictions.items():
        assert own.shape == (NUM_CLASSES * NUM_VAL, NUM_CLASSES), member
        assert np.allclose(own.sum(axis=1), 1, atol=1e-5)
    assert len({own.tobytes() for own in predictions.values()}) == len(MEMBERS)
    drawn = {path.stem.removeprefix("conv1_") for path in (run / "report" / "figures").glob("conv1_*.png")}
    # LeNet-5 sees grey.
    assert drawn == MEMBERS - {"lenet5"}
    averaged = np.mean([predictions[member] for member in sorted(MEMBERS)], axis=0).argmax(axis=1)
    truth = np.load(run / "data" / "val.labels.npy")
    assert scores["ensemble"]["top1_error"] == pytest.approx((averaged != truth).mean())
