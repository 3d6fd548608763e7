"""Both experiments of 2012, and transfer, in small: the real configurations on photographs, members in this process."""

import io
import json
import shutil

import numpy as np
import pytest
from one_slot import one_slot
from safetensors.numpy import load_file

from orchestrator import launching as story
from orchestrator.config.composition import compose
from orchestrator.plan.model import StageRef, plan_from_json
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import read_record
from workers.storage.finished import read_finished

pytestmark = pytest.mark.timeout(240)
# A target within a superset within a larger one, as in 2012.
NUM_CLASSES = {"target": 4, "superset2009": 6, "superset": 8}
TRAIN_IMAGES, HELD_OUT_IMAGES = 24, 6
CONVS = ("conv1", "conv2", "conv3", "conv4", "conv5")
SMALL = (
    # So small a step that weights of float32 do not move: what a stage ends with is what it began with.
    *("model=alexnet_64", "model.width=0.08", "model.fc_units=24", "optimizer.lr=1e-30", "optimizer.batch_size=32"),
    *("schedule.epochs=1", "ensemble.stages.train.epochs=1", "precision=fp32", "cluster.cpus_per_member=1"),
    "tracking.required=false",
)
NARROW = "ensemble.members.pretrained1.stages.fall2011.model.bottleneck=12"
RELEASE_EPOCHS = tuple(f"ensemble.stages.{stage}.epochs=1" for stage in ("fall2009", "fall2011", "finetune"))


@pytest.fixture(scope="module")
def photographs(real_images, tmp_path_factory):
    """A few real photographs of eight classes, with the files that name each dataset's classes and their ids."""
    place = tmp_path_factory.mktemp("photographs")
    classes = sorted(path.name for path in (real_images / "train").iterdir())[: NUM_CLASSES["superset"]]
    for split, count in (("train", TRAIN_IMAGES), ("val", HELD_OUT_IMAGES)):
        for name in classes:
            (place / split / name).mkdir(parents=True)
            files = sorted(path for path in (real_images / split / name).rglob("*") if path.is_file())
            for path in files[:count]:
                shutil.copy(path, place / split / name)
    for dataset, count in NUM_CLASSES.items():
        (place / f"{dataset}.txt").write_text("".join(f"{name}\n" for name in classes[:count]))
    (place / "ids.txt").write_text("".join(f"{name} {number + 1}\n" for number, name in enumerate(classes[:4])))
    return place


class Runs:
    """Launches in this process."""

    def __init__(self, place, photographs):
        self.place, self.photographs = place, photographs

    def launch(self, name, datasets, *overrides):
        given = [f"run_dir={self.place / name}", f"datasets.store={self.place / 'store'}"]
        given.append(f"tracking.uri=sqlite:///{self.place / 'mlflow.db'}")
        for dataset in datasets:
            given.append(f"datasets.{dataset}.root={self.photographs}")
            given.append(f"datasets.{dataset}.classes={self.photographs / dataset}.txt")
            given.append(f"datasets.{dataset}.size=64")
        stream = io.StringIO()
        story.launch(compose([*given, *SMALL, *overrides]), stream)
        return RunPaths(self.place / name)


@pytest.fixture
def runs(tmp_path, photographs, monkeypatch):
    monkeypatch.setattr(story.cluster, "open_cluster", one_slot)
    return Runs(tmp_path, photographs)


def final_weights(paths, stage):
    ref = StageRef.parse(stage)
    return load_file(paths.checkpoints(ref) / read_finished(paths.stage(ref)).checkpoint / "model.safetensors")


def same_layers(paths, one, other):
    """Layers whose weights have equal bits at the end of both stages."""
    first, second = final_weights(paths, one), final_weights(paths, other)
    names = {name for name in first.keys() & second.keys() if name.endswith(".weight")}
    return {name.removesuffix(".weight") for name in names if np.array_equal(first[name], second[name])}


def counts(paths):
    """How many members each row of the table is about."""
    scores = json.loads((paths.report / "scores.json").read_text())
    return {row["name"]: len(row["members"]) for row in scores["rows"]}


def submitted(paths):
    return (paths.submission / "submission.txt").read_text().splitlines()


def test_release_chain_trains_each_shared_ancestor_once_and_copies_to_the_bit(runs, photographs):
    paths = runs.launch(
        "release",
        ("target", "superset2009", "superset"),
        "experiment=ilsvrc2012_release",
        f"submission.class_ids={photographs / 'ids.txt'}",
        NARROW,
        *RELEASE_EPOCHS,
        "ensemble.stages.finetune.optimizer.lr=1e-30",
    )
    done = {str(path.parent.relative_to(paths.members)) for path in paths.members.glob("*/*/DONE.json")}
    chain = {"pretrained1/fall2009", "pretrained1/fall2011", *(f"pretrained{n}/finetune" for n in (1, 2, 3))}
    assert done == {*(f"base{number}/train" for number in (1, 2, 3, 4)), *chain}
    assert same_layers(paths, "base1/train", "pretrained1/fall2009") == set(CONVS)
    assert same_layers(paths, "pretrained1/fall2009", "pretrained1/fall2011") == {*CONVS, "conv6"}
    for number in (1, 2, 3):
        fine = f"pretrained{number}/finetune"
        assert same_layers(paths, "pretrained1/fall2011", fine) == {*CONVS, "conv6", "fc6", "fc7"}
        assert final_weights(paths, fine)["fc8.weight"].shape == (4, 24)
    assert final_weights(paths, "pretrained1/fall2011")["fc8.weight"].shape == (8, 12)
    # What the three do not share is drawn by seeds of their own.
    assert "fc8" not in same_layers(paths, "pretrained1/finetune", "pretrained2/finetune")
    assert not same_layers(paths, "base1/train", "base2/train")
    assert counts(paths) == {"1 CNN": 4, "4 CNNs": 4, "1 CNN*": 3, "7 CNNs*": 7}
    assert len(submitted(paths)) == 4 * HELD_OUT_IMAGES
    assert {label for line in submitted(paths) for label in line.split()} == {"1", "2", "3", "4"}


@pytest.mark.slow
def test_article_s_seven_train_five_and_two_with_each_superset_net_of_its_own(runs, photographs):
    paths = runs.launch(
        "article",
        ("target", "superset"),
        "experiment=ilsvrc2012",
        f"submission.class_ids={photographs / 'ids.txt'}",
        *(f"ensemble.stages.{stage}.epochs=1" for stage in ("pretrain", "finetune")),
        "ensemble.stages.finetune.optimizer.lr=1e-30",
    )
    plan = plan_from_json(read_record(paths).plan)
    assert len(plan.stages) == 9
    for member in ("pretrained1", "pretrained2"):
        assert same_layers(paths, f"{member}/pretrain", f"{member}/finetune") == {*CONVS, "conv6", "fc6", "fc7"}
        assert final_weights(paths, f"{member}/pretrain")["fc8.weight"].shape == (8, 24)
    assert not same_layers(paths, "pretrained1/pretrain", "pretrained2/pretrain")
    assert counts(paths) == {"1 CNN": 5, "5 CNNs": 5, "1 CNN*": 2, "7 CNNs*": 7}
    assert len(submitted(paths)) == 4 * HELD_OUT_IMAGES


@pytest.mark.slow
def test_transfer_from_another_run_s_file_trains_the_last_layer_alone(runs):
    stages = "ensemble.members.transferred.stages"
    # A file does not say what normalised the pixels of its net, as a stage does.
    alike = ("experiment=tiny_imagenet", "ensemble=transfer", "augmentation.normalisation=dataset")
    rates = (*alike, "optimizer.lr=0.01", "ensemble.stages.pretrain.epochs=1")
    chain = runs.launch("chain", ("target", "superset"), *rates)
    moved = {"fc8"}
    own = set(final_weights(chain, "transferred/transfer"))
    layers = {name.rpartition(".")[0] for name in own}
    assert same_layers(chain, "transferred/pretrain", "transferred/transfer") == layers - moved
    assert list(counts(chain)) == ["1 CNN", "1 CNN*", "2 CNNs*"]

    ref = StageRef("transferred", "pretrain")
    file = chain.checkpoints(ref) / read_finished(chain.stage(ref)).checkpoint / "model.safetensors"
    given = (f"~{stages}.pretrain", f"{stages}.transfer.init_from=null", f"{stages}.transfer.init_file={file}")
    alone = runs.launch("file", ("target",), *rates[:-1], *given)
    assert list(counts(alone)) == ["1 CNN", "1 CNN*", "2 CNNs*"]
    # The same ancestor's bits by either way, the same seed by the stage's name: the same net.
    for name, value in final_weights(chain, "transferred/transfer").items():
        assert np.array_equal(value, final_weights(alone, "transferred/transfer")[name])
