"""Pre-training never sees what the target holds out."""

import os
import shutil

import pytest
from pictures import write_tree

from orchestrator.config.composition import compose
from orchestrator.inputs import prepare_all, survey_all
from workers.errors import DataError, StorageError


def paint(path, seed):
    write_tree(path.parent, {f"{path.name}.png": seed}, side=8)


@pytest.fixture
def photos(tmp_path):
    for number, name in enumerate(("cat", "dog", "owl")):
        for image in range(20):
            paint(tmp_path / "photos" / "train" / name / f"{image}", 100 * number + image)
    return tmp_path / "photos"


def overrides(photos, *more):
    (photos.parent / "two.txt").write_text("cat\ndog\n")
    return [
        "experiment=tiny_imagenet",
        f"datasets.target.root={photos}",
        f"datasets.target.classes={photos.parent / 'two.txt'}",
        f"datasets.superset.root={photos}",
        f"datasets.store={photos.parent / 'store'}",
        *more,
    ]


def prepared(photos, *changes):
    return prepare_all(compose(overrides(photos, *changes)), lambda name, progress: None)


def assert_never_trained_on(inputs):
    """Target images held out and pre-trained on: none. How many were left out of the superset for that."""
    target, superset = inputs["target"], inputs["superset"]
    held_out = {bytes(row) for split in ("dev", "val", "test") for row in target.contents(split)}
    assert not held_out & {bytes(row) for row in superset.contents("train")}
    return len(superset.left_out)


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("datasets.superset.val_fraction=0.05", "datasets.target.val_fraction=0.3"),
        ("datasets.superset.val_fraction=0.4",),
        ("datasets.superset.dev_fraction=0",),
    ],
    ids=["alike", "holds out less", "holds out more", "other dev"],
)
def test_superset_of_the_same_folder_never_trains_on_what_the_target_holds_out(photos, changes):
    assert_never_trained_on(prepared(photos, *changes))


def test_superset_whose_classes_hold_more_images_leaves_out_what_the_target_holds_out(photos):
    more = photos.parent / "more"
    shutil.copytree(photos, more)
    for name, first in (("cat", 5000), ("dog", 6000)):
        for image in range(40):
            paint(more / "train" / name / f"more{image}", first + image)
    assert assert_never_trained_on(prepared(photos, f"datasets.superset.root={more}")) > 0


def test_target_with_its_own_val_and_test_is_never_trained_on_by_a_superset_that_has_them_in_train(photos):
    other = photos.parent / "others"
    for image in range(20):
        paint(other / "train" / "cat" / f"{image}", 1000 + image)
        paint(other / "train" / "dog" / f"{image}", 2000 + image)
    paint(other / "val" / "cat" / "0", 3)
    paint(other / "val" / "dog" / "0", 104)
    paint(other / "test" / "0", 205)
    inputs = prepared(photos, f"datasets.target.root={other}")
    assert_never_trained_on(inputs)
    held = {row for split in ("dev", "val") for row in inputs["superset"].rows(split)}
    left_out = {each["path"] for each in inputs["superset"].left_out}
    assert left_out | {f"train/{row}" for row in held} >= {"train/cat/3.png", "train/dog/4.png", "train/owl/5.png"}


def test_wrong_dataset_is_named_with_what_to_change(photos):
    config = compose(overrides(photos, "datasets.superset.root=null"))
    for read in (survey_all, lambda config: prepare_all(config, lambda name, progress: None)):
        with pytest.raises(DataError) as caught:
            read(config)
        assert str(caught.value) == (
            "datasets.superset: no root: set datasets.superset.root=FOLDER, or do without it: ensemble=five"
        )


def test_disk_without_room_is_a_storage_error_that_names_the_dataset(photos, monkeypatch):
    real = os.statvfs(photos)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((1, 1, *real[2:4], 5000, *real[5:])))
    with pytest.raises(
        StorageError, match=r"^datasets\.target: .*5,000 bytes are free.*datasets\.target\.store_format=jpeg"
    ):
        prepare_all(compose(overrides(photos)), lambda line: None)
    assert StorageError.exit_code == 7
    assert not (photos.parent / "store").exists()


@pytest.mark.parametrize("name", ["target", "superset"])
def test_dataset_of_one_image_a_class_is_refused_at_once(photos, name):
    single = photos.parent / "single"
    for number, one in enumerate(("cat", "dog")):
        paint(single / "train" / one / "0", 7000 + number)
    config = compose(overrides(photos, f"datasets.{name}.root={single}"))
    for read in (survey_all, lambda config: prepare_all(config, lambda name, progress: None)):
        with pytest.raises(DataError, match=rf"^datasets\.{name}: no image is held out as .*; add"):
            read(config)
    # With a val of its own, one image a class is enough if val steers the training too.
    for number, one in enumerate(("cat", "dog")):
        paint(single / "val" / one / "0", 7100 + number)
    with pytest.raises(DataError, match=rf"2 images of 2 classes are left .* set datasets\.{name}\.dev_fraction=0, "):
        survey_all(config)
    config = compose(overrides(photos, f"datasets.{name}.root={single}", f"datasets.{name}.dev_fraction=0"))
    assert survey_all(config)[name].counts["val"] == 2


def test_dataset_of_two_images_a_class_is_refused_for_its_empty_dev(photos):
    pairs = photos.parent / "pairs"
    for number, one in enumerate(("cat", "cat", "dog", "dog")):
        paint(pairs / "train" / one / str(number), 7200 + number)
    with pytest.raises(DataError, match=r"^datasets\.target: dev would be empty: beside val, 2 images of 2 classes"):
        survey_all(compose(overrides(photos, f"datasets.target.root={pairs}")))


def test_every_image_is_trained_on_where_nothing_is_held_out_but_test(photos):
    changes = ("datasets.target.val_fraction=0", "datasets.target.dev_fraction=0")
    with pytest.raises(
        DataError, match=r"^datasets\.target: nothing is left to predict, since it has no test: add one, or"
    ):
        survey_all(compose(overrides(photos, *changes)))
    paint(photos / "test" / "0", 7300)
    paint(photos / "test" / "1", 1)
    inputs = prepared(photos, *changes)
    # One image is a copy of a test image.
    assert inputs["target"].counts == {"train": 39, "dev": 0, "val": 0, "test": 2}
    assert_never_trained_on(inputs)


def test_superset_may_hold_out_nothing(photos):
    inputs = prepared(photos, "datasets.superset.val_fraction=0", "datasets.superset.dev_fraction=0")
    assert (inputs["superset"].counts["dev"], inputs["superset"].counts["val"]) == (0, 0)
    held_out = sum(inputs["target"].counts[split] for split in ("dev", "val"))
    assert assert_never_trained_on(inputs) == held_out
    assert inputs["superset"].counts["train"] == 60 - held_out


def test_dataset_of_one_class_is_refused_by_its_name(photos):
    for number in range(8):
        paint(photos.parent / "alone" / "train" / "cat" / str(number), 7300 + number)
    config = compose(
        overrides(photos, f"datasets.target.root={photos.parent / 'alone'}", "datasets.target.classes=null")
    )
    for read in (survey_all, lambda config: prepare_all(config, lambda name, progress: None)):
        with pytest.raises(DataError, match=r"^datasets\.target: cat is its only class: add images of another"):
            read(config)
