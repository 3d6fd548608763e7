"""An opened store and what a run keeps of it."""

import hashlib
import json

import numpy as np
import pytest
from listed import folder, store_of
from pictures import encoded, noise, write_tree
from PIL import Image

from workers.data.decoding import Rules
from workers.data.decoding.decisions import Decision
from workers.data.export import export
from workers.data.store import open_store, prepare
from workers.errors import StorageError
from workers.settings import Exif
from workers.storage import sealed


def test_split_that_is_not_there_is_empty(plain_tree, tmp_path):
    store = store_of(folder(plain_tree, dev_fraction=0), tmp_path / "stores")
    assert store.counts == {"train": 54, "dev": 0, "val": 6, "test": 5}
    assert store.images("dev").shape == (0, 8, 8, 3)
    assert store.sizes("dev").shape == (0, 2)
    assert store.contents("dev").shape == (0, 32)
    assert store.labels("dev") is None
    assert store.rows("dev") == []


def test_mean_image_is_in_the_manifest_and_not_in_the_digest(plain_tree, tmp_path):
    store = store_of(folder(plain_tree), tmp_path / "stores")
    wanted = np.asarray(store.images("train"), np.float64).mean(axis=0)
    np.testing.assert_allclose(store.mean_image(), wanted, rtol=1e-6)
    content = (store.path / "mean_image.npy").read_bytes()
    assert store.files["mean_image.npy"].sha256 == hashlib.sha256(content).hexdigest()
    files = sorted(name for name in store.files if name != "mean_image.npy" and "checksums" not in name)
    assert {name.split(".")[0] for name in files} == {
        f"{split}{shard}" for split in ("train", "dev", "val", "test") for shard in ("", "-00000")
    }
    lines = [*store.classes, "", *(f"{name} {store.files[name].sha256}" for name in files)]
    assert store.digest == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    (store.path / "mean_image.npy").write_bytes(content[:-1])
    with pytest.raises(StorageError, match=r"mean_image\.npy is missing or has another size"):
        open_store(store.path)


def test_store_of_another_schema_is_refused(plain_tree, tmp_path, monkeypatch):
    current = prepare(folder(plain_tree), tmp_path / "stores")
    with monkeypatch.context() as later:
        for module in ("preparation", "store"):
            later.setattr(f"workers.data.store.{module}.SCHEMA", 6)
        other = prepare(folder(plain_tree), tmp_path / "stores")
    assert other != current
    with pytest.raises(StorageError, match=r"manifest\.json has schema 6, not 5"):
        open_store(other)


def test_store_is_decoded_by_the_datasets_rules_and_tells_them(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    names = [f"{split}/{kind}/{number}.png" for split in ("train", "val") for kind in "ab" for number in range(2)]
    write_tree(tmp_path / "root", names)
    write_tree(
        tmp_path / "root",
        {"test/turned.png": encoded(noise(90, 8, 12), exif=exif), "test/z.png": encoded(noise(91, 11, 11))},
    )
    applied = store_of(folder(tmp_path / "root", dev_fraction=0), tmp_path / "stores")
    ignored = store_of(folder(tmp_path / "root", dev_fraction=0, exif=Exif.ignore, max_pixels=100), tmp_path / "stores")
    assert (applied.rules, ignored.rules) == (Rules(), Rules(Exif.ignore, 100))
    assert applied.sizes("test").tolist() == [[12, 8], [11, 11]]
    assert ignored.sizes("test").tolist() == [[8, 12], [0, 0]] and ignored.unreadable("test") == (1,)
    assert applied.decided == {Decision.turned: 1} and ignored.decided == {Decision.not_turned: 1}
    turned = np.rot90(np.asarray(ignored.images("test"))[0], -1)
    np.testing.assert_array_equal(np.asarray(applied.images("test"))[0], turned)
    assert applied.digest != ignored.digest


@pytest.mark.parametrize("schema", [3, 4])
def test_store_of_an_earlier_schema_is_read_as_one_that_turned_nothing(plain_tree, tmp_path, schema):
    store = store_of(folder(plain_tree), tmp_path / "stores")
    manifest = json.loads((store.path / "manifest.json").read_text())
    manifest.pop("manifest_sha256")
    (store.path / "manifest.json").write_bytes(sealed({**manifest, "schema": schema}))
    assert open_store(store.path).rules == Rules(Exif.ignore)


def test_export_holds_what_scoring_and_submitting_need(plain_tree, tmp_path):
    write_tree(plain_tree, {"test/t2.png": b"bad"})
    store = store_of(folder(plain_tree), tmp_path / "stores")
    data = tmp_path / "run" / "data"
    export(store, data)
    assert (data / "classes.txt").read_text() == "a\nb\nc\n"
    kept = {each.name for each in data.iterdir()}
    assert kept == {
        *("classes.txt", "dataset.json", "prepared.png", "dev.labels.npy", "val.labels.npy"),
        *(f"{split}.{kind}" for split in ("dev", "val", "test") for kind in ("rows.txt", "sizes.npy")),
    }
    for split in ("dev", "val", "test"):
        assert hashlib.sha256((data / f"{split}.rows.txt").read_bytes()).hexdigest() == store.rows_sha256(split)
    np.testing.assert_array_equal(np.load(data / "val.labels.npy"), store.labels("val"))
    assert json.loads((data / "dataset.json").read_text()) == {
        "digest": store.digest,
        "class_ids": [],
        "counts": {"train": 48, "dev": 6, "val": 6, "test": 5},
        "unreadable": {"dev": [], "val": [], "test": [2]},
    }


def test_export_over_an_earlier_one_leaves_nothing_that_the_store_lacks(plain_tree, tmp_path):
    store = store_of(folder(plain_tree, dev_fraction=0), tmp_path / "stores")
    data = tmp_path / "data"
    data.mkdir()
    for name in ("dev.rows.txt", "dev.sizes.npy", "dev.labels.npy", "test.labels.npy"):
        (data / name).write_text("of an earlier export")
    export(store, data)
    kept = {each.name for each in data.iterdir()}
    of_splits = {"val.rows.txt", "val.sizes.npy", "val.labels.npy", "test.rows.txt", "test.sizes.npy"}
    assert kept == {"classes.txt", "dataset.json", "prepared.png"} | of_splits
