"""Corrected labels make a store of the same pixels: only train's labels change, and what is left out is gone."""

import numpy as np
import pytest
from listed import flip, folder, store_of

from workers.data.export import export
from workers.data.store import only_fold, open_on_node, open_store, without_fold
from workers.data.store.store import RELABELLED
from workers.errors import DataError, StorageError
from workers.protocol import HeldFold
from workers.settings import Verify


@pytest.fixture
def base(plain_tree, tmp_path):
    return store_of(folder(plain_tree), tmp_path / "stores")


@pytest.fixture
def corrected(base, plain_tree, tmp_path):
    """Prepares the tree with answers by row."""

    def prepared(answers, **named):
        path = tmp_path / "corrected.csv"
        path.write_text("".join(["id,correct\n", *(f"{row},{answer}\n" for row, answer in answers.items())]))
        return store_of(folder(plain_tree, relabel=str(path)), tmp_path / "stores", **named)

    return prepared


def test_labels_change_and_left_out_images_are_gone_from_train_alone(base, corrected):
    rows, labels = base.rows("train"), base.labels("train")
    one, other = rows[3], rows[7]
    store = corrected({one: "c", other: "-", rows[0]: "a"})
    kept = np.delete(np.arange(len(rows)), 7)
    wanted = labels.copy()
    wanted[3] = 2
    assert store.rows("train") == [rows[index] for index in kept]
    np.testing.assert_array_equal(store.labels("train"), wanted[kept])
    np.testing.assert_array_equal(np.asarray(store.images("train")), np.asarray(base.images("train"))[kept])
    np.testing.assert_array_equal(store.contents("train"), base.contents("train")[kept])
    assert store.counts["train"] == len(kept) == base.counts["train"] - 1
    for split in ("dev", "val", "test"):
        assert store.rows(split) == base.rows(split)
        np.testing.assert_array_equal(store.contents(split), base.contents(split))
        assert (store.labels(split) is None) or (store.labels(split) == base.labels(split)).all()
    assert store.digest != base.digest and (store.mean, store.classes) == (base.mean, base.classes)
    given = store.as_given()
    assert given.rows("train") == rows and given.counts == base.counts
    np.testing.assert_array_equal(given.labels("train"), labels)


def test_images_are_not_decoded_or_stored_again_and_the_dataset_itself_keeps_its_store(base, corrected, plain_tree):
    before = {path.name: path.stat().st_mtime_ns for path in base.path.iterdir()}
    phases = set()
    store = corrected({base.rows("train")[0]: "b"}, progress=lambda step: phases.add(step.phase))
    assert phases <= {"verify"}
    for name in base.files:
        assert (store.path / name).stat().st_ino == (base.path / name).stat().st_ino
    assert {path.name: path.stat().st_mtime_ns for path in base.path.iterdir()} == before
    again = corrected({base.rows("train")[0]: "b"})
    assert again.path == store.path and again.digest == store.digest
    assert corrected({base.rows("train")[0]: "a"}).path == base.path


def test_folds_of_a_relabelled_store_see_its_images(base, corrected, tmp_path):
    store = corrected({base.rows("train")[0]: "b", base.rows("train")[5]: "-"})
    folds = (np.arange(store.counts["train"]) % 3).astype(np.int16)[:, None]
    np.save(tmp_path / "folds.npy", folds)
    fold = HeldFold(store.path, tmp_path / "folds.npy", number=1, repeat=0)
    inside, outside = only_fold(store, fold), without_fold(store, fold)
    assert inside.rows("train") == store.rows("train")[1::3]
    np.testing.assert_array_equal(inside.labels("train"), store.labels("train")[1::3])
    assert {*inside.rows("train"), *outside.rows("train")} == {*store.rows("train")}
    np.testing.assert_array_equal(np.asarray(inside.images("train")), np.asarray(store.images("train"))[1::3])


def test_copy_on_a_node_has_the_corrected_labels(base, corrected, tmp_path):
    store = corrected({base.rows("train")[0]: "b", base.rows("train")[5]: "-"})
    copy = open_on_node(store.path, tmp_path / "node")
    assert copy.path != store.path and copy.rows("train") == store.rows("train")
    np.testing.assert_array_equal(copy.labels("train"), store.labels("train"))


def test_run_keeps_the_corrected_labels(base, corrected, tmp_path):
    rows = base.rows("train")
    store = corrected({rows[0]: "b", rows[5]: "-"})
    export(store, tmp_path / "data", np.zeros((store.counts["train"], 1), np.int16))
    kept = (tmp_path / "data" / "oof.rows.txt").read_text().splitlines()
    assert kept == rows[:5] + rows[6:]
    np.testing.assert_array_equal(np.load(tmp_path / "data" / "oof.labels.npy"), store.labels("train"))
    assert len(np.load(tmp_path / "data" / "oof.sizes.npy")) == len(kept)


@pytest.mark.parametrize("split", ["dev", "val"])
def test_image_that_is_held_out_is_refused(base, corrected, split):
    with pytest.raises(DataError, match=rf"relabel=.*is held out as {split}: only training images are relabelled"):
        corrected({base.rows(split)[0]: "c" if base.labels(split)[0] != 2 else "a"})


@pytest.mark.parametrize("answer", ["-", "b"])
def test_class_that_loses_its_last_image_is_refused(base, corrected, answer):
    of_class = [row for row in base.rows("train") if row.startswith("a/")]
    with pytest.raises(DataError, match="no image of class a is left to train on"):
        corrected(dict.fromkeys(of_class, answer))


def test_damage_is_repaired_where_it_is_shared_and_where_it_is_not(base, corrected):
    answers = {base.rows("train")[0]: "b"}
    store = corrected(answers)
    pixels = store.path / "train-00000.images.npy"
    flip(store.path / RELABELLED, 140)
    with pytest.raises(StorageError, match=r"damaged; run it again with datasets.verify=always"):
        (store.path / ".verified.json").unlink()
        corrected(answers)
    flip(pixels)
    repaired = corrected(answers, verify=Verify.always)
    assert repaired.path == store.path and repaired.digest == store.digest
    np.testing.assert_array_equal(
        np.asarray(repaired.images("train")), np.asarray(open_store(base.path).images("train"))
    )
    assert repaired.labels("train")[0] == 1
