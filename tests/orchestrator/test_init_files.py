"""Members that start from a file of weights: in the configuration, the plan and its hash, and what is refused."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from orchestrator.config.composition import compose, reopen
from orchestrator.inputs import check_init_files, hash_init_files, survey_all
from orchestrator.plan.build import make_plan
from orchestrator.plan.diff import ChangeKind, compare
from orchestrator.plan.model import StageRef, plan_from_json, plan_to_json
from orchestrator.plan.report import make_report
from orchestrator.tracking.tracker import stage_params
from workers.errors import ConfigError, DataError
from workers.models.construction import build, initialise
from workers.settings.model import InitSettings, ModelSettings

TINY = ("model.width=0.1", "model.fc_units=16")
MEMBER = "ensemble.members.own.stages.train"


def composed(file, *overrides):
    keys = (f"{MEMBER}.dataset=target", f"{MEMBER}.init_file={file}", f"{MEMBER}.reset=[head]")
    return compose(["ensemble=five", *TINY, *keys, *overrides])


def planned(config):
    return make_plan(config, survey_all(config), hash_init_files(config))


def write_weights(path, num_classes=7, seed=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    model = build(ModelSettings(input_size=28, width=0.1, conv1_kernel=5, conv1_stride=1, fc_units=16), num_classes)
    initialise(model, InitSettings(), seed)
    save_file(model.state_dict(), path)
    return path


def own(plan):
    return plan.last_stage("own").ref


def test_plan_hash_follows_the_file_s_bytes_and_never_its_place(tmp_path):
    here, moved = write_weights(tmp_path / "a.safetensors"), write_weights(tmp_path / "b" / "c.safetensors")
    other = write_weights(tmp_path / "other.safetensors", seed=2)
    first, second, third = (planned(composed(file)) for file in (here, moved, other))
    assert first.hash == second.hash
    assert plan_from_json(json.loads(json.dumps(plan_to_json(first)))) == first
    assert first.hash != third.hash
    assert {one.ref for one in first.stages if third.stage(one.ref).hash != one.hash} == {own(first)}
    change = compare(first, third)
    assert change.kind is ChangeKind.differs
    assert len(change.lines) == 1
    assert change.lines[0].startswith("init_file: sha256 ")


def test_member_that_starts_from_a_file_counts_as_pretrained_and_the_plan_names_the_file(tmp_path):
    plan = planned(composed(write_weights(tmp_path / "a.safetensors")))
    assert plan.pretrained_members() == ("own",)
    report = make_report(plan, compose([]).cluster, 1)
    assert [one["init_from"] for one in report.to_json()["stages"]] == [None] * 5 + ["a.safetensors"]
    line = next(line for line in report.to_text().splitlines() if line.startswith("own/train"))
    assert line.split()[:3] == ["own/train", "a.safetensors", "target"]
    assert stage_params(plan.last_stage("own"))["init_from"] == "a.safetensors"
    more = "ensemble.members.own.stages.more"
    plan = planned(composed(tmp_path / "a.safetensors", f"{more}.dataset=target", f"{more}.init_from=train"))
    assert own(plan) == StageRef("own", "more")
    assert plan.pretrained_members() == ("own",), "its ancestor starts from a file"


def test_relative_path_is_kept_as_an_absolute_one(tmp_path, monkeypatch):
    write_weights(tmp_path / "a.safetensors")
    monkeypatch.chdir(tmp_path)
    config = composed("a.safetensors")
    assert config.members["own"].stages["train"].init_file == str(tmp_path / "a.safetensors")
    monkeypatch.chdir(tmp_path.parent)
    assert reopen(config.yaml).members == config.members


def test_reference_in_the_path_stays_one_in_what_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("OWN_WEIGHTS", str(write_weights(tmp_path / "a.safetensors")))
    config = composed("'${oc.env:OWN_WEIGHTS}'")
    assert "${oc.env:OWN_WEIGHTS}" in config.yaml
    assert planned(config).last_stage("own").init_file is not None


def test_file_that_cannot_be_a_beginning_is_refused_with_its_key(tmp_path):
    with pytest.raises(ConfigError, match="init_from and init_file exclude each other"):
        composed(tmp_path / "a.pth", f"{MEMBER}.init_from=base1.train")
    key = r"members\.own\.stages\.train\.init_file=.*absent.pth"
    with pytest.raises(DataError, match=rf"{key}: cannot be read \(No such"):
        planned(composed(tmp_path / "absent.pth"))
    with pytest.raises(ConfigError, match="no layer fc9"):
        planned(composed(write_weights(tmp_path / "a.safetensors"), f"{MEMBER}.reset=[fc9]"))


def test_file_of_another_model_is_refused_when_the_plan_is_checked(tmp_path):
    plan = planned(composed(write_weights(tmp_path / "a.safetensors"), f"{MEMBER}.reset=[fc7]"))
    with pytest.raises(DataError) as caught:
        check_init_files(plan)
    assert str(caught.value).startswith(f"{MEMBER}.init_file={tmp_path / 'a.safetensors'}: fc8.weight is (7, 16)")
    assert "\n" not in str(caught.value)
    check_init_files(planned(composed(tmp_path / "a.safetensors")))


def test_published_torchvision_file_starts_a_torchvision_member(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        published = torchvision.models.alexnet(num_classes=1000).state_dict()
    # As published: torchvision's names, a thousand classes, torch's own format.
    torch.save({name: torch.zeros(value.shape) for name, value in published.items()}, tmp_path / "alexnet.pth")
    model = (
        f"{MEMBER}.model.name=torchvision/alexnet",
        f"{MEMBER}.model.input_size=64",
        "datasets.target.size=64",
        "model.input_size=56",
    )
    plan = planned(composed(tmp_path / "alexnet.pth", *model, f"{MEMBER}.freeze=[body]"))
    check_init_files(plan)
    stage = plan.last_stage("own")
    assert stage.recipe.model.name == "torchvision/alexnet"
    without_reset = dataclasses.replace(stage, recipe=dataclasses.replace(stage.recipe, reset=()))
    with pytest.raises(DataError, match=r"is \(1000, 4096\), the model wants \(10, 4096\)"):
        check_init_files(dataclasses.replace(plan, stages=(without_reset,)))
