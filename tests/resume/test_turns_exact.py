"""A member trained by a process that trained others before has the bits of one trained by a fresh process."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_stage import TINY, make_spec, make_store, never

from workers.models import code_of
from workers.protocol import Numerics, StageSpec
from workers.settings import ModelSettings, ScheduleSettings
from workers.training.stage import run_stage

# As an actor does it: prints what each stage of a pickled list ended with, and the memory that it left.
SCRIPT = """
import pickle, sys, psutil
from orchestrator.cluster.actor import MemberActor
actor, process = MemberActor(), psutil.Process()
actor.warm_up(1)
for spec in pickle.load(sys.stdin.buffer):
    outcome = actor.run_stage(spec)
    print(getattr(outcome, "result", outcome).checkpoint_sha256, process.memory_info().rss >> 20, flush=True)
"""
OWN = """
from torch import nn
def build(num_classes, input_size):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Flatten(), nn.Linear(256, num_classes),
    )
"""
# What no process may hand on to a member of other code.
MEDDLING = f"""{OWN}
loss = nn.CrossEntropyLoss.forward
nn.CrossEntropyLoss.forward = lambda self, *given: loss(self, *given) * 1.5
"""
KINDS = {
    "alexnet": TINY.model,
    "cifar": ModelSettings(name="cifar_80s", input_size=16),
    "batch norm": ModelSettings(name="timm/test_resnet", input_size=16, args={"drop_path_rate": 0.3}),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


def own_code(folder: Path, source: str) -> ModelSettings:
    folder.mkdir()
    (folder / "nets.py").write_text(source)
    model = ModelSettings(name="nets.py:build", file=str(folder / "nets.py"), input_size=16)
    return replace(model, code=code_of(model))


def spec_of(store: Path, stage_dir: Path, model: ModelSettings) -> StageSpec:
    schedule = ScheduleSettings(epochs=1, cuts=0, latest=())
    spec = make_spec(store, stage_dir, replace(TINY, model=model, schedule=schedule), checkpoint_updates=100)
    # In bf16, torch's gradient of a convolution with stride 2 on one pixel reads memory that nothing has set.
    return replace(spec, numerics=Numerics(precision="fp32" if model.name.startswith("timm/") else "bf16"))


def test_member_has_the_same_bits_after_others_of_other_nets_and_numerics(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="the extra `timm` is not installed")
    first, *others = (spec_of(store, tmp_path / name / "train", model) for name, model in KINDS.items())
    own = spec_of(store, tmp_path / "own" / "train", own_code(tmp_path / "code", OWN))
    before = run_stage(first, never)
    for spec in (*others, replace(own, numerics=Numerics(threads=2))):
        run_stage(spec, never)
    after = run_stage(replace(first, stage_dir=tmp_path / "again" / "train"), never)
    assert after.checkpoint_sha256 == before.checkpoint_sha256
    other = run_stage(replace(first, stage_dir=tmp_path / "other" / "train", numerics=Numerics()), never)
    assert other.checkpoint_sha256 != before.checkpoint_sha256, "equal in other numerics: the test sees nothing"


def _begun(specs: list[StageSpec]) -> subprocess.Popen[bytes]:
    for spec in specs:
        spec.stage_dir.parent.mkdir(parents=True, exist_ok=True)
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=pipe, stdout=pipe, env={**os.environ})
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(specs))
    process.stdin.close()
    return process


def _ended(process: subprocess.Popen[bytes]) -> tuple[list[str], list[int]]:
    """Returns the stages' sha256, and MB of memory after each."""
    assert process.stdout is not None
    lines = [line.split() for line in process.stdout.read().decode().splitlines()]
    assert process.wait() == 0
    return [sha256 for sha256, _ in lines], [int(megabytes) for _, megabytes in lines]


@pytest.mark.slow
def test_members_in_turns_have_the_bits_of_fresh_processes_and_their_process_does_not_grow(
    store: Path, tmp_path: Path
) -> None:
    pytest.importorskip("timm", reason="the extra `timm` is not installed")

    def spec(turn: str, name: str, model: ModelSettings) -> StageSpec:
        return spec_of(store, tmp_path / turn / name / "train", model)

    fresh = {name: _begun([spec("fresh", name, model)]) for name, model in KINDS.items()}
    alone = {name: _ended(process)[0][0] for name, process in fresh.items()}
    assert len(set(alone.values())) == len(KINDS)
    members = [(f"{name}{turn}", name) for turn in range(3) for name in KINDS]
    meddling = spec("turns", "own", own_code(tmp_path / "code", MEDDLING))
    specs = [spec("turns", member, KINDS[name]) for member, name in members]
    found, megabytes = _ended(_begun([*specs, meddling, spec("turns", "last", KINDS["alexnet"])]))
    assert found[: len(members)] == [alone[name] for _, name in members]
    assert found[-1] != alone["alexnet"], "code that changes torch changed nothing: the test sees nothing"
    # The first round loads what the nets need.
    assert megabytes[len(members) - 1] - megabytes[len(KINDS) - 1] < 8, megabytes
