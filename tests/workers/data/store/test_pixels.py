"""One array over all shards: what numpy gives for the whole, whatever the shards; mapped late, and within limits."""

import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from listed import folder, store_of
from pictures import write_tree

from workers.data.decoding import decode_stored, encode
from workers.data.loading import crop
from workers.data.store import Pixels, pixels as module
from workers.data.store.pixels import ShardFiles
from workers.errors import StorageError
from workers.settings import DatasetSettings, StoreFormat

SIZE = 16


def raw(folder: Path, images: np.ndarray, counts: list[int]) -> Pixels:
    """The images, so many to a shard."""
    shards, start = [], 0
    for number, count in enumerate(counts):
        path = folder / f"{len(list(folder.iterdir()))}-{number}.npy"
        np.save(path, images[start : start + count])
        shards.append(ShardFiles(count, path))
        start += count
    return Pixels(shards, images.shape[1])


def noise(num_images: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(num_images).integers(0, 256, (num_images, size, size, 3), dtype=np.uint8)


bounds = st.none() | st.integers(-20, 20)
slices = st.builds(slice, bounds, bounds, st.sampled_from([None, 1, 2, 5, -1, -3]))
sides = st.builds(slice, st.none() | st.integers(0, SIZE), st.none() | st.integers(0, SIZE))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.data())
def test_indexing_gives_what_the_whole_array_would(tmp_path, counts, data):
    images = noise(sum(counts))
    stored = raw(tmp_path, images, counts)
    assert stored.shape == images.shape
    assert len(stored) == len(images)
    assert np.array_equal(stored, images)
    assert np.array_equal(list(stored), list(images))
    key = data.draw(slices)
    assert np.array_equal(stored[key], images[key])
    rows, columns = data.draw(sides), data.draw(sides)
    assert np.array_equal(stored[key, rows], images[key, rows])
    assert np.array_equal(stored[key, rows, columns], images[key, rows, columns])
    if len(images):
        index = data.draw(st.integers(-len(images), len(images) - 1))
        assert np.array_equal(stored[index], images[index])
        assert np.array_equal(stored[index, rows, columns], images[index, rows, columns])
        chosen = np.array(data.draw(st.lists(st.integers(0, len(images) - 1), max_size=6)), np.int64)
        assert np.array_equal(stored[chosen], images[chosen])
        mask = np.isin(np.arange(len(images)), chosen)
        assert np.array_equal(stored[mask], images[mask])


def test_image_beyond_the_last_is_refused(tmp_path):
    stored = raw(tmp_path, noise(3), [2, 1])
    for index in (3, -4, (0, 1)):
        with pytest.raises(IndexError):
            stored[index]


def test_slice_within_a_shard_is_a_view_of_the_file_that_cannot_be_written(tmp_path):
    stored = raw(tmp_path, noise(6), [3, 3])
    view = stored[3:6]
    assert not view.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        view[:] = 0
    copy = np.array(stored)
    copy[:] = 0
    assert stored[:].any()


def test_shards_are_mapped_when_they_are_asked_for(tmp_path):
    stored = raw(tmp_path, noise(9), [3, 3, 3])

    def mapped():
        return Path("/proc/self/maps").read_text().count(str(tmp_path))

    assert mapped() == 0
    stored[4], stored[5]
    assert mapped() == 1
    stored[0]
    assert mapped() == 2


def test_shards_beyond_the_limit_of_open_files_give_way(tmp_path, monkeypatch):
    images = noise(40)
    stored = raw(tmp_path, images, [2] * 20)
    limits = module._OTHER_FILES + 14, module._OTHER_FILES + 14
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits)
    order = np.random.default_rng(0).permutation(200) % 40
    for index in order.tolist():
        assert np.array_equal(stored[index], images[index])
        assert Path("/proc/self/maps").read_text().count(str(tmp_path)) <= 7


def test_threads_that_read_at_once_open_shards_in_turn(tmp_path, monkeypatch):
    images = noise(40)
    stored = raw(tmp_path, images, [2] * 20)
    limits = module._OTHER_FILES + 4, module._OTHER_FILES + 4
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits)
    opening, met = threading.Semaphore(1), threading.Event()
    really_open = module._open_shard

    def open_shard(*arguments):
        if not opening.acquire(blocking=False):
            met.set()
            return really_open(*arguments)
        # Without a lock, another thread would come by now.
        met.wait(0.01)
        shard = really_open(*arguments)
        opening.release()
        return shard

    monkeypatch.setattr(module, "_open_shard", open_shard)
    order = np.random.default_rng(0).permutation(80) % 40
    with ThreadPoolExecutor(4) as threads:
        read = list(threads.map(lambda index: stored[index], order.tolist()))
    assert np.array_equal(read, images[order])
    assert not met.is_set()


def test_limit_of_open_files_is_raised_where_it_may_be(tmp_path, monkeypatch):
    raised = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, 100_000))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: raised.append(limits))
    stored = raw(tmp_path, noise(8), [1] * 8)
    assert np.array_equal(stored, noise(8))
    assert raised == [(module._OTHER_FILES + 16, 100_000)]
    assert Path("/proc/self/maps").read_text().count(str(tmp_path)) == 8


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: np.save(path, noise(5)),
        lambda path: np.save(path, noise(4).astype(np.int8)),
    ],
    ids=["absent", "short", "cut", "shape", "dtype"],
)
def test_shard_unlike_its_manifest_is_a_storage_error(tmp_path, damage):
    stored = raw(tmp_path, noise(4), [4])
    (path,) = tmp_path.iterdir()
    damage(path)
    with pytest.raises(StorageError, match=f"{path}.*damaged"):
        stored[0]


def test_crops_across_shards_are_those_of_one_array(tmp_path):
    images = noise(30)
    generator = np.random.default_rng(0)
    chosen, offsets = generator.integers(0, 30, 50), generator.integers(0, 5, (50, 2))
    expected = crop(images, chosen, offsets, 12)
    for counts in ([30], [7, 0, 20, 3]):
        assert np.array_equal(crop(raw(tmp_path, images, counts), chosen, offsets, 12), expected)


def test_jpeg_store_holds_the_encoded_pixels_and_gives_their_windows(plain_tree, tmp_path):
    wanted: Any = folder(plain_tree, size=40)
    raw_store = store_of(wanted, tmp_path / "stores")
    as_jpeg = folder(plain_tree, size=40, store_format=StoreFormat.jpeg, jpeg_quality=70)
    store = store_of(as_jpeg, tmp_path / "stores")
    assert store.digest != raw_store.digest
    assert store.rows("train") == raw_store.rows("train")
    for split, count in store.counts.items():
        images, pixels = store.images(split), raw_store.images(split)
        assert images.shape == (count, 40, 40, 3)
        content = np.load(store.path / f"{split}-00000.jpeg.npy")
        offsets = np.load(store.path / f"{split}-00000.offsets.npy")
        assert offsets[0] == 0
        assert offsets[-1] == len(content)
        for index in range(count):
            file = content[offsets[index] : offsets[index + 1]].tobytes()
            assert file == encode(pixels[index], 70)
            assert np.array_equal(images[index], decode_stored(file))
            assert np.array_equal(images[index, 3:33, 5:35], decode_stored(file)[3:33, 5:35])
        assert np.array_equal(images[:, 2:9, 1:30], np.asarray(images)[:, 2:9, 1:30])
        images.will_need(0, count)
        offsets = np.arange(2 * count).reshape(-1, 2) % 11
        assert np.array_equal(
            crop(images, np.arange(count), offsets, 30), crop(np.asarray(images), np.arange(count), offsets, 30)
        )
    # Noise is what JPEG is worst at; the statistics are of what training will see.
    assert store.mean != raw_store.mean
    np.testing.assert_allclose(store.mean, np.asarray(store.images("train")).mean(axis=(0, 1, 2)) / 255, rtol=1e-5)


def test_jpeg_store_drops_unreadable_images_and_keeps_test_rows(plain_tree, tmp_path):
    write_tree(plain_tree, {"train/a/bad.png": b"bad", "test/t2.png": b""})
    options = {"root": str(plain_tree), "size": 24, "on_bad": "skip", "store_format": StoreFormat.jpeg}
    store = store_of(DatasetSettings(**options), tmp_path / "stores")
    assert sum(len(store.images(split)) for split in store.counts) == 65
    assert np.abs(store.images("test")[2].astype(int) - 128).max() <= 1
    assert store.unreadable("test") == (2,)


def test_damaged_image_of_a_jpeg_store_is_a_storage_error_that_names_it(tmp_path):
    encoded = [encode(image, 90) for image in noise(2)]
    content = np.frombuffer(b"".join(encoded), np.uint8).copy()
    content[len(encoded[0]) + len(encoded[1]) // 2 :] = 0
    np.save(tmp_path / "images.npy", content)
    np.save(tmp_path / "offsets.npy", np.cumsum([0, *map(len, encoded)]))
    stored = Pixels([ShardFiles(2, tmp_path / "images.npy", tmp_path / "offsets.npy")], SIZE)
    assert stored[0].shape == (SIZE, SIZE, 3)
    with pytest.raises(StorageError, match=r"images.npy: image 1 is damaged"):
        stored[1, 2:10, 2:10]
