"""Damage in a prepared store: found when it is opened or an image is read, and packed again from the source."""

import json
import os
import shutil
import time

import numpy as np
import pytest
from hypothesis import given, strategies as st
from listed import flip, folder

from workers.data.store import integrity, open_store, prepare
from workers.data.store.integrity import checksum, damaged_files
from workers.errors import StorageError
from workers.settings import StoreFormat, Verify

SHARD = {StoreFormat.raw: "train-00000.images.npy", StoreFormat.jpeg: "train-00000.jpeg.npy"}


@pytest.fixture(params=StoreFormat)
def settings(request, plain_tree):
    return folder(plain_tree, size=24, store_format=request.param)


@pytest.fixture
def store(settings, tmp_path):
    return open_store(prepare(settings, tmp_path / "stores"))


def contents(path):
    return {each.name: each.read_bytes() for each in path.glob("[!.]*")}


def touch(path):
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))


def note_of(age_s, path):
    note = json.loads((path / ".verified.json").read_text())
    (path / ".verified.json").write_text(json.dumps({**note, "time": time.time() - age_s}))


@pytest.mark.parametrize("index", [slice(0, 48), 0, [0, 1]])
def test_damaged_image_is_never_returned_and_its_shard_is_named(store, index):
    assert len(np.atleast_1d(store.images("train")[index]))
    flip(
        store.path / SHARD[StoreFormat.jpeg if "jpeg" in next(iter(store.shards["train"])).images.name else "raw"], 200
    )
    with pytest.raises(StorageError, match=r"train-00000\.\w+\.npy: image 0 of this shard is damaged"):
        store.images("train")[index]
    assert len(store.images("train")[30:]) == 18, "other images are read"
    assert not (store.path / ".verified.json").exists(), "the next launch reads the store whole"


@given(st.integers(1, 50_000), st.data())
def test_checksum_sees_a_changed_byte_and_blocks_that_changed_places(size, data):
    before = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    after = before.copy()
    after[data.draw(st.integers(0, size - 1))] ^= data.draw(st.integers(1, 255))
    assert checksum(after) != checksum(before)
    turned = np.roll(before, 4096 * data.draw(st.integers(1, 8)))
    assert (checksum(turned) == checksum(before)) == np.array_equal(turned, before)


@pytest.mark.parametrize(
    ("policy", "age_s", "touched", "found"),
    [
        (Verify.always, 0, False, True),
        (Verify.changed, 0, True, True),
        (Verify.changed, 0, False, False),
        (Verify.changed, 8 * 24 * 3600, False, True),
        (Verify.changed, -3600, False, True),
        (Verify.never, 8 * 24 * 3600, True, False),
    ],
)
def test_policy_says_when_files_are_read(store, policy, age_s, touched, found):
    name = next(iter(store.shards["train"])).images.name
    note_of(age_s, store.path)
    flip(store.path / name)
    if touched:
        touch(store.path / name)
    assert damaged_files(store.path, store.files, policy) == [name] * found


def test_only_changed_files_are_read_again_and_the_note_keeps_its_age(store, monkeypatch):
    note_of(3600, store.path)
    before = json.loads((store.path / ".verified.json").read_text())
    touch(store.path / "val.rows.txt")
    read = []
    monkeypatch.setattr(integrity, "sha256_of", lambda path: read.append(path.name) or store.files[path.name].sha256)
    assert damaged_files(store.path, store.files, Verify.changed) == []
    assert damaged_files(store.path, store.files, Verify.changed) == []
    assert read == ["val.rows.txt"]
    assert json.loads((store.path / ".verified.json").read_text())["time"] == before["time"]


@pytest.mark.parametrize("name", ["", "val.labels.npy", "test.rows.txt", "train.checksums.npy", "mean_image.npy"])
@pytest.mark.parametrize("fault", ["flipped", "cut", "gone"])
def test_damaged_file_is_packed_again_to_the_same_bytes(store, settings, tmp_path, name, fault):
    name = name or next(iter(store.shards["train"])).images.name
    whole = contents(store.path)
    match fault:
        case "flipped":
            flip(store.path / name, 5)
            touch(store.path / name)
        case "cut":
            (store.path / name).write_bytes(whole[name][:-1])
        case "gone":
            (store.path / name).unlink()
    others = {each: (store.path / each).stat().st_ino for each in whole if each != name}
    assert prepare(settings, tmp_path / "stores") == store.path
    assert contents(store.path) == whole
    assert {each: (store.path / each).stat().st_ino for each in others} == others
    assert [each.name for each in (tmp_path / "stores").iterdir()] == [store.path.name]


def test_shard_whose_source_has_changed_unseen_stays_and_is_named(store, settings, tmp_path, plain_tree):
    name = next(iter(store.shards["train"])).images.name
    flip(store.path / name)
    touch(store.path / name)
    source = plain_tree / "train/a/0.png"
    times, size = source.stat(), source.stat().st_size
    other = (plain_tree / "train/a/1.png").read_bytes()
    source.write_bytes((other + bytes(size))[:size])
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    before = contents(store.path)
    with pytest.raises(StorageError, match=f"{name}.*: the prepared dataset is damaged and cannot be packed again"):
        prepare(settings, tmp_path / "stores")
    assert contents(store.path) == before
    shutil.rmtree(store.path)


def test_repair_does_not_trust_what_a_killed_repair_has_linked(store, settings, tmp_path):
    """Its links are the damaged files themselves, if they were damaged since."""
    name = next(iter(store.shards["train"])).images.name
    whole = contents(store.path)
    left = tmp_path / "stores" / f".building-{store.path.name}" / store.path.name
    left.mkdir(parents=True)
    for file in whole:
        (left / file).hardlink_to(store.path / file)
    shutil.copytree(store.path / ".records", left.with_name(f"{left.name}.records"))
    flip(store.path / name)
    touch(store.path / name)
    assert prepare(settings, tmp_path / "stores") == store.path
    assert contents(store.path) == whole
    assert damaged_files(store.path, store.files) == []


def test_repair_gives_files_that_it_did_not_read_no_new_week(store, settings, tmp_path):
    (store.path / ".verified.json").unlink()
    flip(store.path / "val.sizes.npy", 130)
    (store.path / "test.rows.txt").unlink()
    prepare(settings, tmp_path / "stores", verify=Verify.never)
    assert damaged_files(store.path, store.files, Verify.changed) == ["val.sizes.npy"]


def test_manifest_that_lost_a_bit_is_told(store):
    text = (store.path / "manifest.json").read_text()
    at = text.index('"mean"') + len('"mean": [\n  0.')
    changed = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
    (store.path / "manifest.json").write_text(changed)
    with pytest.raises(StorageError, match=r"manifest\.json differs from its own sha256; delete the folder"):
        open_store(store.path)
