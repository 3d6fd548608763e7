"""Seven members on one node: the images are in memory once, and each member sees them in its own order and crops."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from at_once import at_once
from listed import folder
from pictures import write_tree

from orchestrator.plan.build import stage_seed
from orchestrator.plan.model import StageRef
from workers.data.loading import TrainingBatches, pixel_statistics
from workers.data.store import open_store, prepare
from workers.settings import AugmentationSettings

MEMBERS = [f"base{number}" for number in range(1, 8)]
NUM_IMAGES, SIZE, INPUT = 140, 256, 224


@dataclass(frozen=True)
class Seen:
    """What one member saw of an epoch, and how much of the store's files its own memory counts, in bytes.

    `pss` divides each page by the number of processes that map it, `rss` does not.
    """

    order: str
    crops: str
    contents: str
    pss: int
    rss: int


def _member(path: Path, name: str, all_mapped: Any, outcome: Any) -> None:
    store = open_store(path)
    augmentation = AugmentationSettings()
    statistics, seed = pixel_statistics(store, augmentation), stage_seed(0, StageRef(name, "train"))
    batches = TrainingBatches(store, statistics, augmentation, seed=seed, batch_size=32, input_size=INPUT)
    crops = hashlib.sha256()
    for index in range(batches.per_epoch):
        crops.update(batches.draw(0, index).images.numpy().tobytes())
    order = batches._draws(0).order
    all_mapped.wait(120)
    memory = [each for each in psutil.Process().memory_maps() if each.path.startswith(str(path))]
    contents = hashlib.sha256(np.sort(order).tobytes()).hexdigest()
    pss, rss = sum(each.pss for each in memory), sum(each.rss for each in memory)
    outcome.put(Seen(hashlib.sha256(order.tobytes()).hexdigest(), crops.hexdigest(), contents, pss, rss))
    # Nobody unmaps before everybody has looked.
    all_mapped.wait(120)


@pytest.mark.slow
def test_seven_members_hold_the_images_once_and_each_has_its_own_order_and_crops(tmp_path):
    write_tree(tmp_path / "photos", [f"train/{'ab'[index % 2]}/{index}.png" for index in range(NUM_IMAGES)], side=8)
    path = prepare(folder(tmp_path / "photos", size=SIZE), tmp_path / "stores")
    seen = at_once(_member, [(path, name) for name in MEMBERS], fork=True)
    bytes_on_disk = sum(shard.stat().st_size for shard in path.glob("train-*.images.npy"))
    pss, rss = sum(each.pss for each in seen), sum(each.rss for each in seen)
    assert pss <= 1.05 * bytes_on_disk
    # They all did read nearly all of it: counted without regard to sharing it is there seven times.
    assert rss >= 6 * bytes_on_disk
    assert len({each.order for each in seen}) == len({each.crops for each in seen}) == len(MEMBERS)
    assert len({each.contents for each in seen}) == 1
