"""Preparation: what lands on disk, once, whole or not at all."""

import hashlib
import json
import os
import resource
import signal
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_once import at_once
from listed import folder, store_of
from pictures import write_tree
from PIL import Image

from workers.data.store import PrepareProgress, open_store, prepare
from workers.data.store.disk_space import store_bytes
from workers.errors import DataError, StorageError
from workers.settings import DatasetSettings, OnBad, Source, StoreFormat


def test_store_is_plain_npy_and_text(plain_tree, tmp_path):
    path = prepare(folder(plain_tree), tmp_path / "stores")
    images = np.load(path / "train-00000.images.npy", mmap_mode="r")
    assert images.shape == (48, 8, 8, 3)
    assert images.dtype == np.uint8
    labels = np.load(path / "train.labels.npy")
    rows = (path / "train.rows.txt").read_text().splitlines()
    assert labels.dtype == np.int64
    assert [("a", "b", "c")[label] for label in labels] == [row.split("/")[0] for row in rows]
    assert np.load(path / "train.sizes.npy").tolist() == [[10, 10]] * 48
    assert not (path / "test.labels.npy").exists()
    # Otherwise the digest of every store that is already there would change.
    for array in path.glob("*.npy"):
        np.save(tmp_path / "again.npy", np.load(array))
        assert (tmp_path / "again.npy").read_bytes() == array.read_bytes()
    assert [each.name for each in (tmp_path / "stores").iterdir()] == [path.name]
    hashes = {
        each.name: hashlib.sha256(each.read_bytes()).hexdigest()
        for each in path.glob("[!.]*")
        if each.suffix != ".json"
    }
    files = json.loads((path / "manifest.json").read_text())["files"]
    assert {name: about["sha256"] for name, about in files.items()} == hashes


def test_each_row_holds_its_own_image(plain_tree, tmp_path):
    store = store_of(folder(plain_tree, size=10), tmp_path / "stores")
    below = {"train": "train", "dev": "train", "val": "train", "test": "test"}
    for split, place in below.items():
        for row, image in zip(store.rows(split), store.images(split), strict=True):
            np.testing.assert_array_equal(image, np.asarray(Image.open(plain_tree / place / row)))


def test_second_preparation_returns_the_first_one(plain_tree, tmp_path, monkeypatch):
    seen: list[PrepareProgress] = []
    first = prepare(folder(plain_tree), tmp_path / "stores", seen.append)
    packed = [each.done for each in seen if each.phase == "pack"]
    assert packed == sorted(set(packed)) and packed[-1] == 65
    assert {each.total for each in seen} == {65}
    seen.clear()
    assert prepare(folder(plain_tree), tmp_path / "stores", seen.append) == first
    assert seen == []
    monkeypatch.chdir(tmp_path)
    assert prepare(folder(plain_tree), Path("stores")) == first


@pytest.mark.parametrize("change", [{"size": 9}, {"dev_fraction": 0.2}, {"val_fraction": 0.3}, {"classes": "two.txt"}])
def test_changed_option_or_file_gives_another_store(plain_tree, tmp_path, change):
    if "classes" in change:
        (tmp_path / "two.txt").write_text("a\nb\n")
        change = {"classes": str(tmp_path / change["classes"])}
    first = store_of(folder(plain_tree), tmp_path / "stores")
    assert prepare(folder(plain_tree, **change), tmp_path / "stores") != first.path
    write_tree(plain_tree, {"train/a/0.png": 9999})
    second = store_of(folder(plain_tree), tmp_path / "stores")
    assert first.path != second.path
    assert first.digest != second.digest


def test_class_without_a_readable_image_is_named(plain_tree, tmp_path):
    write_tree(plain_tree, {f"train/dark/{index}.png": b"x" * (index + 1) for index in range(4)})
    with pytest.raises(DataError, match="class dark"):
        prepare(folder(plain_tree, on_bad=OnBad.skip), tmp_path / "stores")


def test_test_split_is_refused_only_if_no_image_of_it_can_be_read(tmp_path):
    root, stores = tmp_path / "root", tmp_path / "stores"
    write_tree(root, [f"train/{name}/{number}.png" for name in "ab" for number in range(4)])
    # As a clone without Git LFS leaves them.
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 9\n"
    write_tree(root, {f"test/{name}.jpg": pointer.format(name).encode() for name in ("1", "2")})
    with pytest.raises(DataError, match=r"2 of its images cannot be read: test/\d\.jpg .*each line .* be a guess"):
        prepare(folder(root), stores)
    assert not stores.exists()
    write_tree(root, {"test/3.png": 99})
    assert list(store_of(folder(root), stores).unreadable("test")) == [0, 1]


def test_train_of_shards_without_a_sample_is_refused(tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w"):
        pass
    settings = folder(tmp_path, source=Source.webdataset)
    with pytest.raises(DataError, match="train has no image"):
        prepare(settings, tmp_path / "stores")


def test_damaged_store_is_refused_by_name(plain_tree, tmp_path):
    path = prepare(folder(plain_tree), tmp_path / "stores")
    for name in ("train-00000.images.npy", "val.labels.npy", "test.rows.txt"):
        whole = (path / name).read_bytes()
        (path / name).write_bytes(whole[:-1])
        with pytest.raises(StorageError, match=f"{path}.*{name}.*delete"):
            open_store(path)
        (path / name).unlink()
        with pytest.raises(StorageError, match="missing"):
            open_store(path)
        (path / name).write_bytes(whole)
    open_store(path)
    for content in ("", "[]", "{}", '{"schema": 99}', "{"):
        (path / "manifest.json").write_text(content)
        with pytest.raises(StorageError, match="delete the folder"):
            open_store(path)
    with pytest.raises(StorageError, match="no prepared dataset"):
        open_store(tmp_path)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/there/store", "long" * 100])
def test_store_in_a_place_that_cannot_be_is_a_storage_error(place, plain_tree, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=f"datasets.store=.*{place}: cannot be used"):
        prepare(folder(plain_tree), tmp_path / place)


def _prepare_and_report(settings: DatasetSettings, root: Path, start: Any, outcome: Any) -> None:
    packed = []
    start.wait(60)
    path = prepare(settings, root, lambda state: packed.append(state.phase == "pack"))
    outcome.put((str(path), any(packed)))


def test_processes_that_prepare_at_once_build_one_store(plain_tree, tmp_path):
    results = at_once(_prepare_and_report, [(folder(plain_tree), tmp_path / "stores")] * 3)
    assert len({path for path, _ in results}) == 1
    assert sum(built for _, built in results) == 1
    assert [f"{tmp_path / 'stores' / each.name}" for each in (tmp_path / "stores").iterdir()] == [results[0][0]]


def _prepare_with_small_files(settings: DatasetSettings, root: Path, limit: int, start: Any, outcome: Any) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        prepare(settings, root)
    except StorageError as error:
        outcome.put(str(error))
    else:
        outcome.put("")


# The first is too small for the pixels; the second holds one-pixel images, and not the 32 bytes a row of contents.
@pytest.mark.parametrize(("size", "limit"), [(8, 4096), (1, 1500)])
def test_store_that_cannot_be_written_leaves_nothing(plain_tree, tmp_path, size, limit):
    root = tmp_path / "place" / "stores"
    root.parent.mkdir()
    (said,) = at_once(_prepare_with_small_files, [(folder(plain_tree, size=size), root, limit)])
    assert "free space" in said
    assert list(root.parent.iterdir()) == []


@pytest.fixture
def leave_free(tmp_path, monkeypatch):
    """Makes every disk say that it has so many bytes free."""
    real = os.statvfs(tmp_path)

    def leave(free):
        said = os.statvfs_result((1, 1, *real[2:4], free, *real[5:]))
        monkeypatch.setattr(os, "statvfs", lambda path: said)

    return leave


def test_store_larger_than_the_disk_is_refused(plain_tree, tmp_path, leave_free):
    leave_free(200_000)
    seen: list[PrepareProgress] = []
    with pytest.raises(StorageError) as caught:
        prepare(folder(plain_tree, size=64), tmp_path / "place" / "stores", seen.append)
    message = str(caught.value)
    assert f"{store_bytes(65, 64, StoreFormat.raw, 90):,} bytes" in message
    assert "200,000 bytes" in message
    assert "datasets.store" in message
    assert "datasets.<name>.store_format=jpeg" in message
    assert not seen
    assert not (tmp_path / "place").exists()
    # As JPEG there is room.
    prepare(folder(plain_tree, size=64, store_format=StoreFormat.jpeg), tmp_path / "stores")


def test_finished_shards_need_no_more_room(plain_tree, tmp_path, leave_free):
    settings = folder(plain_tree, size=64)

    def interrupt(state):
        if state.phase == "pack" and state.done == 65:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(settings, tmp_path / "stores", interrupt)
    leave_free(store_bytes(65, 64, StoreFormat.raw, 90) * 3 // 4)
    prepare(settings, tmp_path / "stores")


def test_needed_bytes_bound_what_is_written(plain_tree, tmp_path):
    for store_format in StoreFormat:
        settings = folder(plain_tree, size=100, store_format=store_format)
        path = prepare(settings, tmp_path / "stores")
        # A mean image, and headers and records of files, are there once, however many images there are.
        fixed = (path / "mean_image.npy").stat().st_size + 20_000
        written = sum(each.stat().st_size for each in path.glob("[!.]*")) - fixed
        assert written <= store_bytes(65, 100, store_format, settings.jpeg_quality)


SIZE = 256


def most_used_mb(root: Path, stores: Path, store_format: StoreFormat) -> float:
    """The most memory that is no file's page, looked at after each image."""
    most = 0.0

    def look(state: PrepareProgress) -> None:
        nonlocal most
        lines = Path("/proc/self/status").read_text().splitlines()
        most = max(most, next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1000)

    prepare(folder(root, size=SIZE, store_format=store_format), stores, look)
    return most


@pytest.mark.slow
@pytest.mark.parametrize("store_format", list(StoreFormat))
def test_memory_while_packing_does_not_grow_with_the_images(tmp_path, store_format):
    most = {}
    for count in (60, 60, 600):
        files = {f"train/{'ab'[index % 2]}/{index}.png": index for index in range(count)}
        root = write_tree(tmp_path / f"images{count}", files)
        most[count] = most_used_mb(root, tmp_path / f"stores{len(most)}-{count}", store_format)
    # 540 images more are 106 MB of pixels.
    assert most[600] - most[60] < 30
