"""Nets of timm and of a user's file end with the same bits wherever their training was interrupted."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_stage import TINY, make_spec, make_store, never, run_in_pieces

from workers.models import code_of
from workers.settings import ModelSettings, ScheduleSettings
from workers.training.stage import run_stage

OWN = """
from torch import nn
def build(num_classes, input_size):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Flatten(), nn.Linear(256, num_classes),
    )
"""


def settings(kind: str, folder: Path) -> ModelSettings:
    if kind == "timm":
        pytest.importorskip("timm", reason="the extra `timm` is not installed")
        return ModelSettings(name="timm/test_resnet", input_size=16, args={"drop_path_rate": 0.3})
    folder.mkdir()
    (folder / "nets.py").write_text(OWN)
    model = ModelSettings(name="nets.py:build", file=str(folder / "nets.py"), input_size=16)
    return replace(model, code=code_of(model))


@pytest.mark.parametrize("kind", ["timm", "own"])
def test_net_of_others_that_is_stopped_after_each_update_ends_with_the_same_bits(tmp_path: Path, kind: str) -> None:
    schedule = ScheduleSettings(epochs=1, cuts=0, latest=())
    recipe = replace(TINY, model=settings(kind, tmp_path / "code"), schedule=schedule, freeze=("head",))
    spec = make_spec(make_store(tmp_path / "store"), tmp_path / "whole", recipe, checkpoint_updates=100)
    whole = run_stage(spec, never)
    result, stops = run_in_pieces(replace(spec, stage_dir=tmp_path / "pieces"), 1)
    assert stops >= whole.num_updates - 1 >= 2
    assert result.checkpoint_sha256 == whole.checkpoint_sha256
    other = run_stage(replace(spec, stage_dir=tmp_path / "other", seed=12), never)
    assert other.checkpoint_sha256 != whole.checkpoint_sha256
