"""A tiny stage on scikit-learn's digits, shared by the tests of training and prediction."""

import pytest

from workers.data.store import prepare
from workers.protocol import Numerics, StageSpec
from workers.settings import (
    AugmentationSettings,
    DatasetSettings,
    KeptCheckpoint,
    ModelSettings,
    OptimizerSettings,
    Recipe,
    ScheduleSettings,
    Source,
)


@pytest.fixture(scope="session")
def digits_store(tmp_path_factory):
    return prepare(DatasetSettings(source=Source.digits, size=18), tmp_path_factory.mktemp("digits-store"))


@pytest.fixture(scope="session")
def turned_store(tmp_path_factory):
    settings = DatasetSettings(source=Source.digits, size=18, orientations=4)
    return prepare(settings, tmp_path_factory.mktemp("turned-store"))


@pytest.fixture
def tiny_spec(digits_store, tmp_path):
    settings = Recipe(
        model=ModelSettings(input_size=16, width=0.05, conv1_kernel=3, conv1_stride=1, conv1_padding=1, fc_units=16),
        optimizer=OptimizerSettings(lr=0.02, batch_size=400),
        schedule=ScheduleSettings(epochs=1),
        augmentation=AugmentationSettings(reflect=False),
    )
    return StageSpec(
        member="base1",
        stage="train",
        seed=11,
        recipe=settings,
        store=digits_store,
        stage_dir=tmp_path / "base1" / "train",
        init_dir=None,
        numerics=Numerics(),
        checkpoint_updates=100,
        keep=KeptCheckpoint.last,
        stage_hash="h",
    )
