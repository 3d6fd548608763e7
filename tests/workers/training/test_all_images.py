"""A stage on a store that holds out no image trains without looking at any, and resumes to the same bits."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from stages import never
from tiny_stage import course, run_in_pieces

from workers.data.store import open_store, prepare
from workers.errors import DataError
from workers.protocol import StageSpec
from workers.settings import DatasetSettings, Decay, InitScheme, InitSettings, ScheduleSettings, Source
from workers.training import run_stage

FIXED = ScheduleSettings(decay=Decay.fixed, epochs=3, cuts=1, latest=(0.6,), warmup_updates=3)
ONE = ScheduleSettings(epochs=1, cuts=0, latest=())


def store_of(folder: Path, **fractions: float) -> Path:
    return prepare(DatasetSettings(source=Source.digits, size=18, **fractions), folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return store_of(tmp_path_factory.mktemp("whole"), val_fraction=0.0, dev_fraction=0.0)


@pytest.fixture
def spec(tiny_spec: StageSpec, whole: Path) -> StageSpec:
    return replace(tiny_spec, store=whole, recipe=replace(tiny_spec.recipe, schedule=FIXED), checkpoint_updates=4)


def test_store_without_dev_and_val_trains_on_every_image_but_test(whole):
    assert open_store(whole).counts == {"train": 1438, "dev": 0, "val": 0, "test": 359}


def test_stage_without_held_out_images_knows_no_errors_and_cuts_at_its_shares(spec):
    result = run_stage(spec, never)
    assert (result.dev_error, result.val_error, result.num_updates) == (None, None, 12)
    ends = [metrics for _, metrics in course(spec.stage_dir) if "lr" in metrics]
    assert [metrics["lr"] for metrics in ends] == pytest.approx([0.02, 0.02, 0.002])
    assert not [name for metrics in ends for name in metrics if name.startswith(("dev/", "val/"))]
    state = json.loads((spec.stage_dir / "checkpoints" / result.checkpoint / "state.json").read_text())
    assert state["train"]["best_step"] is None
    assert len(list((spec.stage_dir / "checkpoints").iterdir())) == 2, "no first epoch is kept as the best"


def test_stage_without_held_out_images_stopped_often_ends_with_the_same_bits(spec, tmp_path):
    undisturbed = run_stage(spec, never)
    pieces = replace(spec, stage_dir=tmp_path / "pieces")
    result, stops = run_in_pieces(pieces, 5)
    assert stops == 2
    assert result.checkpoint_sha256 == undisturbed.checkpoint_sha256
    assert course(pieces.stage_dir) == course(spec.stage_dir)


@pytest.mark.parametrize(("std", "at_chance"), [(1e-30, True), (0.1, False)])
def test_stage_without_held_out_images_is_flagged_by_its_training_error(spec, std, at_chance):
    settings = spec.recipe
    recipe = replace(
        settings,
        model=replace(settings.model, dropout=0.0, width=0.2),
        init=InitSettings(scheme=InitScheme.gaussian, std=std),
        optimizer=replace(settings.optimizer, batch_size=64),
        schedule=replace(ONE, epochs=3),
    )
    assert run_stage(replace(spec, recipe=recipe), never).at_chance is at_chance


def test_schedule_that_looks_is_refused_where_nothing_is_held_out(spec):
    looking = replace(spec.recipe, schedule=ScheduleSettings(epochs=3))
    with pytest.raises(DataError, match="no dev or val images to schedule by"):
        run_stage(replace(spec, recipe=looking), never)


def test_stage_with_dev_alone_reports_no_error_as_val(spec, tmp_path):
    store = store_of(tmp_path / "store", val_fraction=0.0)
    result = run_stage(replace(spec, store=store, recipe=replace(spec.recipe, schedule=ONE)), never)
    assert result.val_error is None
    assert 0 < result.dev_error < 1
