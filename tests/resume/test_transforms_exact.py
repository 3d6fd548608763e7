"""Twenty updates on images that a policy changes end with the same bits wherever they were interrupted."""

from dataclasses import replace

import numpy as np
import pytest
from pictures import write_tree
from tiny_stage import TINY, interrupted, make_spec, never

from workers.data.loading import Transforms
from workers.data.store.preparation import prepare
from workers.settings.dataset import DatasetSettings, Source
from workers.settings.training import AugmentationSettings, OptimizerSettings, Policy, ScheduleSettings
from workers.training.stage import run_stage

# Four updates an epoch.
RECIPE = replace(
    TINY,
    optimizer=OptimizerSettings(lr=0.02, batch_size=8),
    schedule=ScheduleSettings(epochs=5),
    augmentation=AugmentationSettings(
        resized_crop=True, policy=Policy.randaugment, contrast=0.4, rotation_degrees=10, random_erasing=0.5
    ),
)


@pytest.fixture
def spec(tmp_path):
    files = {f"train/{name}/{index}.png": 100 * place + index for place, name in enumerate("ab") for index in range(20)}
    root = write_tree(tmp_path / "images", files, side=20)
    options = DatasetSettings(source=Source.folder, root=str(root), size=18)
    return make_spec(prepare(options, tmp_path / "stores"), tmp_path / "whole", RECIPE, checkpoint_updates=100)


def test_stage_with_a_policy_stopped_in_an_epoch_ends_with_the_same_bits(spec, tmp_path, monkeypatch):
    whole = run_stage(spec, never)
    assert whole.num_updates == 20
    stopped = interrupted(spec, tmp_path / "stopped", 7)
    again = run_stage(stopped, never)
    assert (again.resumed_from, again.checkpoint_sha256) == (7, whole.checkpoint_sha256)


def test_draws_from_one_stream_for_all_images_would_end_otherwise(spec, tmp_path, monkeypatch):
    streams, fill = [], Transforms.fill

    def run(spec):
        streams.append(np.random.default_rng(0))
        return run_stage(spec, never)

    def from_stream(transforms, *given):
        fill(transforms, *given[:-1], streams[-1].integers(2**32, size=len(given[-1])))

    monkeypatch.setattr(Transforms, "fill", from_stream)
    streams.append(np.random.default_rng(0))
    resumed = run(interrupted(spec, tmp_path / "stopped", 7))
    assert run(spec).checkpoint_sha256 != resumed.checkpoint_sha256
    assert run(replace(spec, stage_dir=tmp_path / "again")).checkpoint_sha256 == run(spec).checkpoint_sha256
