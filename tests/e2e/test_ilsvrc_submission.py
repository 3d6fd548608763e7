"""From ILSVRC-2012's archives and development kit to a submission that the kit's own rule accepts, and scores well."""

import io
import json
import shutil

import numpy as np
import pytest
from ilsvrc_files import Challenge, write_archives
from one_slot import one_slot
from PIL import Image

from orchestrator import cluster
from orchestrator.cli.program import main

pytestmark = pytest.mark.timeout(240)
# By ILSVRC2012_ID from 1, real WNIDs: no name keeps its place when they are sorted.
WNIDS = ("n02119789", "n02100735", "n02110185", "n02096294", "n02102040", "n02066245", "n02509815")
COLOURS = ((220, 30, 30), (30, 220, 30), (30, 30, 220), (220, 220, 30), (220, 30, 220), (30, 220, 220), (20, 20, 20))
NUM_TRAIN, NUM_VAL, NUM_TEST = 12, 14, 21
LARGEST_ID, MOST_GUESSES = 1000, 5


def photograph(generator, place):
    """A noisy image of the class's colour."""
    pixels = np.clip(np.float64(COLOURS[place]) + generator.normal(0, 25, (36, 44, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def truth():
    """The ids of the test images, which the challenge keeps to itself."""
    return np.random.default_rng(5).permutation([1 + index % len(WNIDS) for index in range(NUM_TEST)]).tolist()


@pytest.fixture(scope="module")
def challenge(truth):
    generator = np.random.default_rng(0)
    val_ids = [1 + index % len(WNIDS) for index in range(NUM_VAL)]
    return Challenge(
        WNIDS,
        {wnid: [photograph(generator, place) for _ in range(NUM_TRAIN)] for place, wnid in enumerate(WNIDS)},
        [photograph(generator, number - 1) for number in val_ids],
        val_ids,
        [photograph(generator, number - 1) for number in truth],
    )


def kit_rule(text, num_images):
    """What the development kit's evaluation would refuse: a line an image, one to five ids in 1…1000, none blank."""
    problems = []
    lines = text.splitlines()
    if len(lines) != num_images:
        problems.append(f"{len(lines)} lines for {num_images} images")
    for number, line in enumerate(lines, start=1):
        words = line.split(" ")
        if not 1 <= len(words) <= MOST_GUESSES:
            problems.append(f"line {number}: {len(words)} guesses")
        if not all(word.isdecimal() and 1 <= int(word) <= LARGEST_ID for word in words):
            problems.append(f"line {number}: {line!r}")
    return problems


def top1_error(text, ids):
    """As the kit counts it: the share of lines whose first id is not the image's."""
    first = [int(line.split()[0]) for line in text.splitlines()]
    return float(np.mean([guess != number for guess, number in zip(first, ids, strict=True)]))


def launch(root, *overrides):
    return main(
        [
            *("launch", "experiment=ilsvrc2012", "dataset@datasets.target=ilsvrc", f"datasets.target.root={root}"),
            *("run_dir=run", "datasets.store=store"),
            *("datasets.target.size=36", "ensemble=sweep", "sweep.seed=[0,1]", "model=alexnet_32", "model.width=0.1"),
            *("model.fc_units=32", "model.dropout=0.0", "augmentation=none", "optimizer.lr=0.02", "precision=fp32"),
            *("optimizer.batch_size=14", "optimizer.clip_norm=5.0", "ensemble.stages.train.epochs=12"),
            *("cluster.cpus_per_member=1", "tracking.required=false", *overrides),
        ]
    )


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "open_cluster", one_slot)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submitted(here):
    return (here / "run" / "submission" / "submission.txt").read_text()


@pytest.mark.slow
def test_archives_and_kit_become_a_submission_by_ids(challenge, truth, here):
    root = write_archives(here / "ilsvrc", challenge)
    assert launch(root) == 0
    text = submitted(here)
    assert kit_rule(text, NUM_TEST) == []
    assert top1_error(text, truth) < 0.2
    # The control: the same guesses by places among sorted names are scored at chance or worse.
    place = {number: 1 + sorted(WNIDS).index(wnid) for number, wnid in enumerate(WNIDS, start=1)}
    by_name = "".join(f"{place[int(line.split()[0])]}\n" for line in text.splitlines())
    assert top1_error(by_name, truth) > 0.8
    assert (here / "run/data/classes.txt").read_text().split() == list(WNIDS)
    manifest = json.loads((here / "run/submission/manifest.json").read_bytes())
    assert "development kit" in manifest["class_ids"]

    # The submission is made again without data set, store or kit.
    shutil.rmtree(root)
    shutil.rmtree(here / "store")
    assert main(["submit", "run", "submission=labels"]) == 0
    labels = (here / "run/submission/submission.csv").read_text().splitlines()
    assert labels[1] == f"ILSVRC2012_test_00000001.JPEG,{WNIDS[truth[0] - 1]}"
    assert main(["submit", "run", "submission=ilsvrc"]) == 0
    assert submitted(here) == text


@pytest.mark.slow
def test_some_classes_are_submitted_by_their_ids_in_the_kit(challenge, truth, here):
    root = write_archives(here / "ilsvrc", challenge)
    kept = [2, 4, 5, 7]
    (here / "kept.txt").write_text("".join(f"{WNIDS[number - 1]}\n" for number in kept))
    assert launch(root, f"datasets.target.classes={here / 'kept.txt'}") == 0
    text = submitted(here)
    assert kit_rule(text, NUM_TEST) == []
    assert {int(word) for word in text.split()} == set(kept)
    known = [row for row, number in enumerate(truth) if number in kept]
    lines = text.splitlines()
    assert top1_error("\n".join(lines[row] for row in known), [truth[row] for row in known]) < 0.2
