"""A store without a fold, or of a fold alone, shows the same images, labels, rows and contents."""

import hashlib

import numpy as np
import pytest
from listed import folder, store_of
from pictures import write_tree

from workers.data.store import only_fold, without_fold
from workers.errors import StorageError
from workers.protocol import HeldFold


@pytest.fixture
def target(plain_tree, tmp_path):
    return store_of(folder(plain_tree, val_fraction=0), tmp_path / "stores")


@pytest.fixture
def fold(target, tmp_path):
    """Of three folds the second, in a second division."""
    folds = np.stack([np.zeros(target.counts["train"]), np.arange(target.counts["train"]) % 3], axis=1)
    np.save(tmp_path / "folds.npy", folds.astype(np.int16))
    return HeldFold(target.path, tmp_path / "folds.npy", number=1, repeat=1)


def contents(store, *splits):
    return {bytes(row) for split in splits for row in store.contents(split)}


def test_fold_and_the_rest_are_all_of_train_and_show_the_same_images(target, fold):
    inside, outside = only_fold(target, fold), without_fold(target, fold)
    every = np.asarray(target.images("train"))
    for store, rows in ((inside, np.arange(1, 54, 3)), (outside, np.flatnonzero(np.arange(54) % 3 != 1))):
        images = store.images("train")
        assert store.counts["train"] == len(images) == len(rows)
        np.testing.assert_array_equal(np.asarray(images), every[rows])
        np.testing.assert_array_equal(images[-1, 1:3, 2:5], every[rows[-1], 1:3, 2:5])
        np.testing.assert_array_equal(images[[4, 0]], every[rows[[4, 0]]])
        np.testing.assert_array_equal(store.labels("train"), target.labels("train")[rows])
        names = [target.rows("train")[row] for row in rows]
        assert store.rows("train") == names
        assert store.rows_sha256("train") == hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
        np.testing.assert_array_equal(store.sizes("train"), target.sizes("train")[rows])
        assert (store.digest, store.mean) == (target.digest, target.mean)
    assert contents(inside, "train") | contents(outside, "train") == contents(target, "train")
    assert not contents(inside, "train") & contents(outside, "train")


def test_images_of_two_splits_in_turn_leave_out_the_fold(target, fold):
    joined, outside = without_fold(target, fold).images("dev", "train"), without_fold(target, fold)
    wanted = np.concatenate([np.asarray(target.images("dev")), np.asarray(outside.images("train"))])
    np.testing.assert_array_equal(np.asarray(joined), wanted)
    labels = outside.labels("dev", "train")
    assert labels is not None and len(labels) == len(joined)


def test_planted_copy_of_a_fold_is_left_out_of_another_dataset_in_every_split(target, fold, tmp_path):
    """The superset has the fold's images in another class, under other names, in train and in val."""
    held = contents(only_fold(target, fold), "train")
    whole = {path: path.read_bytes() for path in (tmp_path / "plain").glob("train/*/*.png")}
    leak = dict(enumerate(whole.values()))
    files = {f"train/other/{number}.png": content for number, content in leak.items()}
    files |= {f"val/other/v{number}.png": content for number, content in list(leak.items())[:30]}
    files |= {
        f"{split}/more/{split}{index}.png": 5000 + index for split, index in [("train", 1), ("train", 2), ("val", 3)]
    }
    superset = store_of(folder(write_tree(tmp_path / "superset", files), val_fraction=0), tmp_path / "stores")
    splits = ("train", "dev", "val")
    assert all(contents(superset, split) & held for split in ("train", "val")), "the leak is planted"
    seen = without_fold(superset, fold)
    assert not contents(seen, *splits) & held
    for split in splits:
        assert contents(seen, split) == contents(superset, split) - held


def test_without_a_fold_the_store_is_itself(target):
    assert without_fold(target, None) is target


def test_folds_of_other_images_are_refused(target, fold):
    np.save(fold.folds, np.zeros((3, 2), np.int16))
    with pytest.raises(StorageError, match=r"folds.npy: is of other images than .*; run `septet launch` again"):
        without_fold(target, fold)
    fold.folds.unlink()
    with pytest.raises(StorageError, match=r"folds.npy: cannot be read \(.*\); run `septet launch` again"):
        only_fold(target, fold)
