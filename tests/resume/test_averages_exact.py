"""A stage that keeps averages of its weights up ends with the same bits wherever it was interrupted."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored import read_checkpoint
from tiny_stage import TINY, course, interrupted, make_spec, make_store, never, run_in_pieces, run_stopped_at

from workers.errors import StorageError
from workers.protocol import StageResult, StageSpec
from workers.settings.averaging import AveragingSettings, Soup
from workers.settings.model import Layout
from workers.settings.training import KeptCheckpoint, OptimizerSettings
from workers.storage.checkpoint import read_weights, write_checkpoint
from workers.training.stage import run_stage

ADAMW = OptimizerSettings(name="adamw", lr=0.002, weight_decay=0.05, batch_size=120, clip_norm=1.0)
AVERAGING = AveragingSettings(swa_from=0.5, soup=Soup.best, soup_checkpoints=2)
HALVES = replace(TINY.model, layout=Layout.halves, lrn_across_halves=False)
NUM_UPDATES = 40
STOPS = sorted(random.Random(20).sample(range(1, NUM_UPDATES), 10))


def spec_of(store: Path, folder: Path, keep: KeptCheckpoint, **changes: object) -> StageSpec:
    recipe = replace(TINY, optimizer=ADAMW, averaging=AVERAGING, **changes)
    return replace(make_spec(store, folder, recipe, checkpoint_updates=100), keep=keep)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def ema(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StageSpec, StageResult]:
    spec = spec_of(store, tmp_path_factory.mktemp("ema"), KeptCheckpoint.ema)
    return spec, run_stage(spec, never)


def test_exponential_average_resumes_at_ten_updates_with_the_same_bits(
    ema: tuple[StageSpec, StageResult], tmp_path: Path
) -> None:
    spec, whole = ema
    assert whole.num_updates == NUM_UPDATES
    assert run_stopped_at(spec, tmp_path, STOPS).checkpoint_sha256 == whole.checkpoint_sha256
    assert course(tmp_path) == course(spec.stage_dir)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [KeptCheckpoint.swa, KeptCheckpoint.soup])
def test_other_averages_end_with_the_same_bits_after_many_stops(
    store: Path, tmp_path: Path, keep: KeptCheckpoint
) -> None:
    spec = spec_of(store, tmp_path / "whole", keep)
    whole = run_stage(spec, never)
    result, stops = run_in_pieces(replace(spec, stage_dir=tmp_path / "pieces"), 7)
    assert stops >= 5
    assert result.checkpoint_sha256 == whole.checkpoint_sha256
    assert course(tmp_path / "pieces") == course(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("keep", [KeptCheckpoint.ema, KeptCheckpoint.swa, KeptCheckpoint.soup])
def test_paused_stage_reports_the_net_that_trains_and_averages_at_its_end(
    store: Path, tmp_path: Path, keep: KeptCheckpoint
) -> None:
    spec = spec_of(store, tmp_path / "whole", keep)
    whole = run_stage(spec, never)
    paused = run_stage(replace(spec, stage_dir=tmp_path / "paused", until=1), never)
    assert paused.checkpoint == "step-00000010" == f"step-{NUM_UPDATES // 4:08d}"
    assert paused.dev_error == dict(course(tmp_path / "whole"))[10]["dev/top1_error"]
    ended = run_stage(replace(spec, stage_dir=tmp_path / "paused"), never)
    assert ended.checkpoint == "averaged-00000040"
    assert ended.checkpoint_sha256 == whole.checkpoint_sha256


def test_average_of_two_halves_resumes_and_is_saved_as_a_whole_net_s(store: Path, tmp_path: Path) -> None:
    spec = spec_of(store, tmp_path / "whole", KeptCheckpoint.ema, model=HALVES)
    whole = run_stage(spec, never)
    result, _ = run_in_pieces(replace(spec, stage_dir=tmp_path / "pieces"), 11)
    assert result.checkpoint_sha256 == whole.checkpoint_sha256
    folder = tmp_path / "whole" / "checkpoints"
    saved, averaged = read_checkpoint(folder / "step-00000040"), read_weights(folder / whole.checkpoint)
    assert {name: value.shape for name, value in saved.model.items()} == {
        name: saved.optimizer[f"average/{name}"].shape for name in averaged.model
    }


def test_net_that_trains_is_the_same_whatever_predicts(
    ema: tuple[StageSpec, StageResult], store: Path, tmp_path: Path
) -> None:
    last = run_stage(spec_of(store, tmp_path, KeptCheckpoint.last), never)
    folder = ema[0].stage_dir / "checkpoints"
    assert read_checkpoint(folder / last.checkpoint).checkpoint.model_sha256 == last.checkpoint_sha256
    plain = read_checkpoint(tmp_path / "checkpoints" / last.checkpoint)
    assert not any(name.startswith("average/") for name in plain.optimizer)


@pytest.mark.parametrize("lost", ["nothing", "average", "half of the average"])
def test_resume_without_the_average_ends_otherwise_or_is_refused(
    ema: tuple[StageSpec, StageResult], tmp_path: Path, lost: str
) -> None:
    spec, whole = ema
    saved = read_checkpoint(interrupted(spec, tmp_path / "whole", 23).stage_dir / "checkpoints" / "step-00000023")
    optimizer = dict(saved.optimizer)
    averages = [name for name in optimizer if name.startswith("average/")]
    if lost == "average":
        optimizer |= {name: np.zeros_like(optimizer[name]) for name in averages}
    elif lost == "half of the average":
        optimizer = {name: value for name, value in optimizer.items() if name not in averages[::2]}
    forged = replace(spec, stage_dir=tmp_path / "forged")
    about = {"stage_hash": spec.stage_hash}
    write_checkpoint(forged.stage_dir / "checkpoints", 23, saved.model, optimizer, dict(saved.state), about)
    if lost == "half of the average":
        with pytest.raises(StorageError):
            run_stage(forged, never)
        return
    same = run_stage(forged, never).checkpoint_sha256 == whole.checkpoint_sha256
    assert same == (lost == "nothing")
