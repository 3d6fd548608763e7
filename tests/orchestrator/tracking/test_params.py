"""Parameters by which runs are told apart."""

import re
from dataclasses import replace

import pytest
from fake_stages import make_plan, make_stage

from orchestrator.config import compose
from orchestrator.tracking.params import ensemble_params, stage_params
from workers.settings import OptimizerSettings, RateChange, ScheduleSettings


def test_params_of_points_that_differ_in_any_setting_differ():
    sweep = [
        make_stage(f"p{n}/train", optimizer=OptimizerSettings(clip_norm=clip)) for n, clip in enumerate((0.0, 2.5))
    ]
    one, other = map(stage_params, sweep)
    assert {name: (one[name], other[name]) for name in one if one[name] != other[name]} == {
        "optimizer.clip_norm": ("0.0", "2.5")
    }


def test_params_are_named_and_spelled_as_they_are_typed():
    found = stage_params(
        make_stage("a/train", "a/pre", reset=("fc8", "conv1"), schedule=ScheduleSettings(cuts=2, latest=(0.5, 0.75)))
    )
    assert found.items() >= {"schedule.latest": "[0.5,0.75]", "reset": "[fc8,conv1]", "init_from": "a/pre"}.items()
    assert found["optimizer.nesterov"] == "false", "as in YAML, and defaults too"
    assert not [name for name, value in found.items() if value in ("", "None", "[]", "{}")]
    compose(
        [
            f"{name}={found[name]}"
            for name in ("optimizer.lr", "schedule.cuts", "schedule.latest", "augmentation.policy")
        ]
    )


def test_params_have_only_names_and_lengths_that_mlflow_takes():
    odd = ScheduleSettings(rate_changes={"a//b (c)" + "x" * 300: RateChange(after_share=0.5, layers={"conv1": 0.0})})
    found = stage_params(make_stage("a/train", reset=tuple(f"layer{n}" for n in range(2000)), schedule=odd))
    assert all(re.fullmatch(r"[\w.-]{1,250}", name) for name in found)
    assert max(map(len, found.values())) == 6000


@pytest.fixture(scope="module")
def config():
    return replace(
        compose(["experiment=digits", "seed=7"]), command=("septet", "launch", "experiment=digits", "seed=7")
    )


def test_ensemble_has_what_defines_it(config):
    stages = [make_stage(f"m{n}/train", optimizer=OptimizerSettings(lr=lr)) for n, lr in enumerate((0.1, 0.2, 0.1))]
    found = ensemble_params(config, make_plan(*stages))
    wanted = {"experiment": "digits", "seed": "7", "members": "3", "overrides": "experiment=digits seed=7"}
    wanted |= {"optimizer.lr": "0.1 | 0.2", "optimizer.momentum": "0.9", "datasets.target.images": "100"}
    wanted |= {"datasets.target.source": "digits", "datasets.target.classes": "2"}
    assert found.items() >= wanted.items()


def test_ensemble_s_overrides_hold_no_password(config):
    typed = ("septet", "launch", "tracking.uri=postgresql://me:secret@host/db", "datasets.target.root=a b")
    found = ensemble_params(replace(config, command=typed), make_plan(make_stage("a/train")))["overrides"]
    assert found == "tracking.uri=postgresql://***@host/db 'datasets.target.root=a b'"
