"""Batches drawn ahead by threads are those drawn one by one, in memory that is used again."""

import threading

import numpy as np
import pytest
import torch
from listed import folder, store_of

from workers.data.loading import TrainingBatches, batches_ahead, pixel_statistics
from workers.data.store import Pixels
from workers.errors import StorageError
from workers.protocol import Numerics
from workers.settings import AugmentationSettings

SIZE = 8


@pytest.fixture
def store(plain_tree, tmp_path):
    return store_of(folder(plain_tree, size=10), tmp_path / "stores")


def opened(store, **how):
    settings = AugmentationSettings()
    statistics = pixel_statistics(store, settings)
    return TrainingBatches(store, statistics, settings, seed=3, batch_size=7, input_size=SIZE, **how)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize(("depth", "num_threads"), [(0, 1), (1, 1), (3, 2), (8, 3)])
@pytest.mark.parametrize("first", [0, 4])
def test_batches_are_the_same_whatever_is_drawn_ahead(store, depth, num_threads, first):
    plain, ahead = opened(store), opened(store, depth=depth, threads=num_threads)
    places = set()
    # The last batch of an epoch is short, and batches of the next are drawn before it is used.
    for step in (*range(first, 3 * plain.per_epoch), 1, 2):
        found, wanted = ahead.take(step), plain.draw(*divmod(step, plain.per_epoch))
        assert torch.equal(found.images, wanted.images)
        assert torch.equal(found.labels, wanted.labels)
        places.add(found.pixels.data_ptr())
    assert len(places) == depth + 1, "memory was not used again"
    assert len(threads()) <= (num_threads if depth else 0)
    ahead.close()
    assert not threads()


@pytest.mark.parametrize(
    ("device", "num_threads", "depth"), [("cpu", 8, 0), ("cuda", 1, 2), ("cuda", 4, 8), ("cuda", 192, 16)]
)
def test_page_locked_memory_does_not_grow_with_the_machines_cpus(device, num_threads, depth):
    """A lone member of a GPU machine gets all of its CPUs: two batches for each of 192 would lock 7 GB."""
    assert batches_ahead(Numerics(threads=num_threads, device=device)) == depth


def test_damaged_image_of_a_batch_ahead_is_told_when_that_batch_is_due(store, monkeypatch):
    batches = opened(store, depth=2, threads=2)
    bad = int(batches._draws(0).order[7])
    plain = Pixels.__getitem__

    def read(pixels, key):
        if isinstance(key, tuple) and key[0] == bad:
            raise StorageError("damaged")
        return plain(pixels, key)

    monkeypatch.setattr(Pixels, "__getitem__", read)
    assert len(batches.take(0)) == 7
    with pytest.raises(StorageError, match="damaged"):
        batches.take(1)
    batches.close()
    assert not threads()


def test_part_of_a_batch_is_those_images_of_it(store):
    batch = opened(store).draw(0, 1)
    parts = [batch[slice(start, start + 3)] for start in range(0, 7, 3)]
    assert [len(part) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert np.concatenate([part.labels for part in parts]).tolist() == batch.labels.tolist()
