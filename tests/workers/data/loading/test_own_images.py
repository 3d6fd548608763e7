"""A worker of a gang draws the images of its own shards as the whole batch has them, and no others."""

import numpy as np
import pytest
import torch

from workers.data.loading import TrainingBatches, pixel_statistics
from workers.data.loading.batches import ReadAhead
from workers.data.store import open_store
from workers.settings import AugmentationSettings, OptimizerSettings, Policy
from workers.training.gradients import own_images

SIZE, BATCH = 16, 50
SHARDS = OptimizerSettings(batch_size=BATCH, shards=7)


class Told:
    """Stands for teachers: of each image a row of its own; notes which it was asked for."""

    def __init__(self):
        self.asked = []

    def of(self, images):
        self.asked += images.tolist()
        return np.repeat(images[:, None].astype(np.float32), 10, axis=1)


def batches(store, augmentation, told, **how):
    given = {"seed": 3, "batch_size": BATCH, "input_size": SIZE, "teachers": told}
    return TrainingBatches(store, pixel_statistics(store, augmentation), augmentation, **given, **how)


@pytest.mark.parametrize("policy", [Policy.none, Policy.trivialaugment])
@pytest.mark.parametrize("width", [2, 3, 7])
def test_images_of_all_workers_make_up_the_whole_batch(digits_store, policy, width):
    store, augmentation = open_store(digits_store), AugmentationSettings(policy=policy)
    whole = batches(store, augmentation, Told())
    for step in (0, whole.per_epoch - 1):
        wanted, joined, asked = whole.draw(*divmod(step, whole.per_epoch)), [], 0
        for rank in range(width):
            told = Told()
            drawn = batches(
                store, augmentation, told, own=lambda count, rank=rank: own_images(count, SHARDS, rank, width)
            ).take(step)
            assert torch.equal(drawn.labels, wanted.labels), "class weights are counted over the whole batch"
            joined.append(drawn[own_images(len(drawn), SHARDS, rank, width)])
            asked += len(told.asked)
        assert asked == len(wanted), "an image was drawn twice, or for nothing"
        assert torch.equal(torch.cat([part.images for part in joined]), wanted.images)
        assert torch.equal(torch.cat([part.taught for part in joined]), wanted.taught)


def test_whole_batches_are_drawn_again_when_asked_for(digits_store):
    store, augmentation = open_store(digits_store), AugmentationSettings()
    told = Told()
    drawn = batches(store, augmentation, told, own=lambda count: slice(0, 0))
    drawn.take(0)
    assert not told.asked
    drawn.draw_whole()
    drawn.take(0)
    assert len(told.asked) == BATCH


def test_kernel_reads_ahead_what_the_worker_draws(digits_store):
    class Asked:
        shape = (1000, 20, 20, 3)

        def __init__(self):
            self.images = []

        def will_need(self, start, stop):
            self.images += range(start, stop)

    pixels, order = Asked(), np.random.default_rng(0).permutation(1000)
    ahead = ReadAhead(pixels, 100, least_bytes=0, is_own=lambda positions: positions % 10 < 4)
    for position in range(0, 1000, 100):
        ahead.to(order, position)
    assert sorted(pixels.images) == sorted(order[np.arange(1000) % 10 < 4].tolist())
