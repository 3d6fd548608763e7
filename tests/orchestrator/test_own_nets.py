"""Nets of users in configuration, plan and run: who may run code, what the hash covers, and the run's own copy."""

import json
from contextlib import contextmanager
from pathlib import Path

import command_line
import numpy as np
import pytest
from local_actors import LocalActors
from PIL import Image

from orchestrator import cluster
from orchestrator.config.composition import compose, reopen
from orchestrator.inputs import survey_all, with_code
from orchestrator.placement import placing
from orchestrator.plan.build import make_plan
from orchestrator.plan.diff import ChangeKind, compare
from orchestrator.plan.model import plan_from_json, plan_to_json
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import read_record
from workers.errors import ConfigError
from workers.numerics import Capabilities

NET = """
from pathlib import Path
from torch import nn
from helper import WIDTH

Path({marker!r}).touch()

def build(num_classes, input_size):
    side = (input_size + 1) // 2
    return nn.Sequential(
        nn.Conv2d(3, WIDTH, 3, 2, 1), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.Flatten(),
        nn.Linear(WIDTH * side**2, num_classes),
    )
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a net, which leaves a marker when it is imported, in a folder of its own."""
    write_net(tmp_path / "mine", tmp_path / "marker")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEPTET_TRUST_CODE", raising=False)
    return tmp_path


def write_net(folder, marker, width=4):
    folder.mkdir(exist_ok=True)
    (folder / "my_nets.py").write_text(NET.format(marker=str(marker)))
    (folder / "helper.py").write_text(f"WIDTH = {width}\n")


def test_file_among_many_others_is_noted_since_all_are_copied(tmp_path):
    folder = tmp_path / "mine"
    write_net(folder, tmp_path / "marker")
    asked = compose(["ensemble=five", f"model.file={folder / 'my_nets.py'}"])
    assert with_code(asked, trusted=True).notes == ()
    for index in range(60):
        (folder / f"other{index}.py").touch()
    (note,) = with_code(asked, trusted=True).notes
    assert ": 62 files of code in its folder are hashed and copied" in note


def planned(file="mine/my_nets.py", *overrides):
    config = with_code(compose(["ensemble=five", f"model.file={file}", *overrides]), trusted=True)
    return make_plan(config, survey_all(config))


OWN = ("ensemble=five", "model.file=mine/my_nets.py")


@pytest.mark.parametrize("verb", ["launch", "plan", "doctor"])
def test_verb_without_trust_is_refused_and_imports_nothing(place, capsys, verb):
    answer = command_line.ask(capsys, verb, *OWN)
    assert answer.code == 2
    assert answer.line.startswith(f"septet: model.file={place}/mine/my_nets.py: is code, ")
    assert "--trust-code" in answer.line
    assert not (place / "marker").exists()
    assert not (place / "runs").exists()


@pytest.mark.parametrize("trusted", ["flag", "variable"])
def test_plan_of_trusted_code_imports_and_counts_it(place, capsys, monkeypatch, trusted):
    if trusted == "variable":
        monkeypatch.setenv("SEPTET_TRUST_CODE", "1")
    answer = command_line.ask(capsys, "plan", *OWN, "--json", *(["--trust-code"] if trusted == "flag" else []))
    assert answer.code == 0, answer.err
    assert (place / "marker").exists()
    assert {one["num_parameters"] for one in json.loads(answer.out)["stages"]} == {
        3 * 9 * 4 + 4 + 8 + 4 * 196 * 10 + 10
    }


def test_relative_path_is_kept_as_an_absolute_one(place, monkeypatch):
    config = compose(["ensemble=five", "ensemble.members.base1.model.file=mine/my_nets.py"])
    assert config.members["base1"].stages["train"].model.file == str(place / "mine" / "my_nets.py")
    monkeypatch.chdir(place.parent)
    assert reopen(config.yaml).members == config.members


def test_sweep_over_nets_names_its_points_by_the_files_as_written(place):
    config = compose(["ensemble=sweep", "sweep.model.file=[mine/my_nets.py]", "sweep.seed=[0,1]"])
    (one, _) = with_code(config, trusted=True).members.values()
    assert one.name.startswith("file-mine-my-nets.py-")
    assert one.stages["train"].model.file == str(place / "mine" / "my_nets.py")


def test_plan_hash_follows_the_code_of_the_folder_and_never_its_place(place):
    write_net(place / "moved", place / "marker")
    write_net(place / "wider", place / "marker", width=5)
    here, moved, wider = (planned(f"{name}/my_nets.py") for name in ("mine", "moved", "wider"))
    assert here.hash == moved.hash != wider.hash
    assert plan_from_json(json.loads(json.dumps(plan_to_json(here)))) == here
    change = compare(here, wider)
    assert change.kind is ChangeKind.differs
    (line,) = [line for line in change.lines if line.startswith("model.code: ")]
    assert line.startswith(f"model.code: {place}/mine/my_nets.py (sha256 ")
    assert planned("mine/my_nets.py", "model.args={}").hash == here.hash


def test_configuration_that_says_its_codes_sha256_itself_is_refused_and_imports_nothing(place):
    """Else whoever wrote it, and not whoever runs it, would say that it is trusted: `make_plan` asks nobody."""
    code = planned().stages[0].recipe.model.code
    (place / "marker").unlink()
    for typed in (f"model.code={code}", f"ensemble.members.base1.model.code={code}"):
        with pytest.raises(ConfigError, match=rf"^\S+\.model\.code={code}: planning fills it in; remove it$"):
            compose([*OWN, typed])
    with pytest.raises(ConfigError, match=r"runs only with --trust-code$"):
        make_plan(config := compose([*OWN]), survey_all(config))
    assert not (place / "marker").exists()


def test_layers_of_an_own_net_are_reset_frozen_and_scaled_by_name(place):
    more = "ensemble.members.base1.stages"
    freeze = [f"{more}.more={{dataset: target, init_from: train, reset: [head], freeze: [body]}}"]
    report = planned("mine/my_nets.py", *freeze).last_stage("base1").recipe
    assert (report.reset, report.freeze) == (("head",), ("body",))
    with pytest.raises(ConfigError, match="no layer fc8; known: 0, 1, 4, body, head"):
        planned("mine/my_nets.py", f"{more}.train.lr_scale.fc8=2")


def test_bf16_is_refused_where_cpus_compute_a_wrong_gradient(place):
    words = ["ensemble=five", "model.name=torchvision/resnet18", "model.input_size=16"]
    with pytest.raises(
        ConfigError, match=r"model.input_size=16: layer4.0.* give \S+model.input_size=32, or precision=fp32"
    ):
        make_plan(config := compose([*words, "precision=bf16"]), survey_all(config))
    make_plan(config := compose([*words, "precision=fp32"]), survey_all(config))


@pytest.mark.parametrize(("size", "precision"), [(16, "fp32"), (24, "bf16")])
def test_auto_precision_leaves_bf16_out_where_cpus_compute_a_wrong_gradient(place, monkeypatch, size, precision):
    monkeypatch.setattr(placing, "capabilities", lambda: Capabilities(bf16=True, compiled_kernels=True))
    config = compose(["ensemble=five", "model.name=torchvision/resnet18", f"model.input_size={size}"])
    plan = make_plan(config, survey_all(config))
    assert placing.place(config, plan, print, placing.Measuring.never).numerics.precision == precision


@pytest.mark.slow
def test_run_keeps_its_code_resumes_with_it_alone_and_predicts_after_the_original_moved(place, capsys, monkeypatch):
    @contextmanager
    def one_slot(settings, needs):
        yield LocalActors(num_slots=1)

    monkeypatch.setattr(cluster, "open_cluster", one_slot)
    folder = command_line.write_ensemble(place / "groups", "pair_of_mine", "a", "b")
    words = ("run_dir=run", "datasets.store=store", "ensemble=pair_of_mine", OWN[1], "schedule=constant")
    words = (*words, "schedule.epochs=1", "precision=fp32", "tracking.required=false", f"--config-dir={folder}")
    assert command_line.ask(capsys, "launch", *words, "--trust-code").code == 0
    paths, (stage, _) = RunPaths(place / "run"), planned().stages[:2]
    code = stage.recipe.model.code
    assert {one["recipe"]["model"]["code"] for one in read_record(paths).plan["stages"]} == {code}
    assert sorted(path.name for path in (paths.code / code).iterdir()) == ["helper.py", "my_nets.py"]

    (place / "mine" / "helper.py").write_text("WIDTH = 5\n")
    answer = command_line.ask(capsys, "launch", *words, "--trust-code", "--accept-changes")
    assert answer.code == 6
    assert f"model.code: {place}/mine/my_nets.py (sha256 {code[:12]}) → {place}/mine/my_nets.py (sha256 " in answer.line

    (place / "mine").rename(place / "gone")
    (place / "marker").unlink()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(place / "x.png")
    answer = command_line.ask(capsys, "predict", "run", "x.png")
    assert (answer.code, (place / "marker").exists()) == (2, False)
    assert answer.line.startswith(f"septet: model.file=run/code/{code}/my_nets.py: is code, "), "what would run"
    answer = command_line.ask(capsys, "predict", "run", "x.png", "--trust-code")
    assert (answer.code, (place / "marker").exists()) == (0, True), answer.err

    Path(paths.code, code, "helper.py").write_text("WIDTH = 4 \n")
    answer = command_line.ask(capsys, "predict", "run", "x.png", "--trust-code")
    assert (answer.code, "its folder's code changed" in answer.line) == (8, True)
