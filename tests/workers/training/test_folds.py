"""A member of a fold reads no image of it: not to train, not to pre-train, not to steer; and resumes to the bit."""

from dataclasses import replace

import numpy as np
import pytest
from stages import never, trained
from tiny_stage import TINY, interrupted, make_spec, run_in_pieces

from workers.data.folds import assign
from workers.data.store import open_store, pixels, prepare
from workers.inference import predict
from workers.protocol import HeldFold, PredictSpec
from workers.settings import DatasetSettings, Fold, Source
from workers.training import run_stage

K, NUMBER = 4, 2
SHORT = replace(TINY, schedule=replace(TINY.schedule, epochs=2), fold=Fold(K, NUMBER))


@pytest.fixture(scope="module")
def fold(digits_store, tmp_path_factory):
    target = open_store(digits_store)
    folds = assign(target.contents("train"), target.labels("train"), K)[:, None]
    path = tmp_path_factory.mktemp("folds") / "folds.npy"
    np.save(path, folds)
    return HeldFold(digits_store, path, NUMBER, 0)


def held(fold):
    """The contents of the fold's images."""
    contents = open_store(fold.target).contents("train")
    return {bytes(row) for row in contents[np.load(fold.folds)[:, 0] == fold.number]}


@pytest.fixture
def read(monkeypatch):
    """The file and index of every image whose pixels are read."""
    found = set()
    window = pixels._RawShard.window

    def noted(shard, index, rows, columns):
        found.add((shard._path, index))
        return window(shard, index, rows, columns)

    monkeypatch.setattr(pixels._RawShard, "window", noted)
    return found


def contents_of(read, store_path):
    """The contents of the images that were read of a store, by split."""
    store, found = open_store(store_path), {}
    for path, index in read:
        split = path.name.partition("-")[0]
        assert [shard.images for shard in store.shards[split]] == [path], "a small store has one shard"
        found.setdefault(split, set()).add(bytes(store.contents(split)[index]))
    return found


def test_target_stage_reads_every_image_of_train_but_its_fold(digits_store, tmp_path, fold, read):
    run_stage(replace(make_spec(digits_store, tmp_path / "stage", SHORT), fold=fold), never)
    store, seen = open_store(digits_store), contents_of(read, digits_store)
    assert seen["train"] == {bytes(row) for row in store.contents("train")} - held(fold)
    assert seen["dev"] == {bytes(row) for row in store.contents("dev")}
    assert "test" not in seen


def test_ancestor_on_copies_reads_none_of_the_fold_to_train_or_to_steer(tmp_path, fold, read):
    """The same digits, of which other ones are dev: a part of the fold's copies is in train, a part in dev."""
    settings = DatasetSettings(source=Source.digits, size=18, dev_fraction=0.5)
    copies = prepare(settings, tmp_path / "stores")
    store, own = open_store(copies), held(fold)
    read.clear()
    run_stage(replace(make_spec(copies, tmp_path / "stage", SHORT), fold=fold), never)
    seen = contents_of(read, copies)
    for split in ("train", "dev", "val"):
        every = {bytes(row) for row in store.contents(split)}
        assert every & own or split == "val", "the leak is planted"
        assert seen[split] == every - own


def test_without_its_fold_a_stage_reads_the_fold_and_ends_with_other_bits(digits_store, tmp_path, fold, read):
    """The negative control of the tests above."""
    with_fold = run_stage(replace(make_spec(digits_store, tmp_path / "fold", SHORT), fold=fold), never)
    read.clear()
    whole = run_stage(make_spec(digits_store, tmp_path / "whole", SHORT), never)
    assert held(fold) <= contents_of(read, digits_store)["train"]
    assert whole.checkpoint_sha256 != with_fold.checkpoint_sha256


def test_stage_of_a_fold_stopped_often_ends_with_the_same_bits(digits_store, tmp_path, fold):
    spec = replace(make_spec(digits_store, tmp_path / "whole", SHORT), fold=fold)
    undisturbed = run_stage(spec, never)
    result, stops = run_in_pieces(replace(spec, stage_dir=tmp_path / "pieces"), 2)
    assert stops > 0
    assert result.checkpoint_sha256 == undisturbed.checkpoint_sha256
    other = interrupted(replace(spec, fold=replace(fold, number=NUMBER + 1)), tmp_path / "mixed", 2)
    mixed = run_stage(replace(other, fold=fold), never)
    assert mixed.checkpoint_sha256 != undisturbed.checkpoint_sha256, "the images since the start matter"


def test_predictions_out_of_fold_are_of_the_folds_rows_in_order(digits_store, tmp_path, fold, read):
    spec = trained(replace(make_spec(digits_store, tmp_path / "base1" / "train", SHORT), fold=fold))
    read.clear()
    asked = PredictSpec(
        *("base1", spec.stage_dir, digits_store, tmp_path / "predictions", ("oof",), SHORT, spec.numerics), fold=fold
    )
    (about,) = predict(asked, never)
    assert contents_of(read, digits_store) == {"train": held(fold)}
    rows = np.flatnonzero(np.load(fold.folds)[:, 0] == NUMBER)
    assert (about.split, about.num_rows) == ("oof", len(rows))
    whole = predict(replace(asked, splits=("train",), fold=None, predictions_dir=tmp_path / "all"), never)
    every, own = (np.load(folder / name) for folder, name in
                  ((tmp_path / "all", "train.npy"), (tmp_path / "predictions", "oof.npy")))  # fmt: skip
    np.testing.assert_allclose(own, every[rows], atol=1e-6)
    assert about.rows_sha256 != whole[0].rows_sha256
