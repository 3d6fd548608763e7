"""A checkpoint that is damaged, whatever the damage: found before it is used, set aside, and the one before it used."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored import read_checkpoint
from tiny_stage import course, interrupted, make_spec, make_store, never

from workers.errors import StorageError
from workers.storage import checkpoint as protocol, layout
from workers.training import stage as stage_module
from workers.training.stage import run_stage

pytestmark = pytest.mark.timeout(300)
NEWEST, BEFORE = 7, 6
FILES = (layout.MODEL, layout.OPTIMIZER, layout.STATE, layout.MANIFEST)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return make_spec(make_store(tmp_path_factory.mktemp("store")), tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def undisturbed(spec):
    return run_stage(spec, never)


@pytest.fixture(scope="module")
def halfway(spec, tmp_path_factory):
    """A stage folder as it lies when its process has ended after update 7."""
    stage_dir = interrupted(spec, tmp_path_factory.mktemp("halfway"), NEWEST).stage_dir
    assert all((stage_dir / "checkpoints" / f"step-{step:08d}").is_dir() for step in (NEWEST, BEFORE))
    return stage_dir


@pytest.fixture
def own(spec, halfway, tmp_path):
    shutil.copytree(halfway, tmp_path / "train")
    return replace(spec, stage_dir=tmp_path / "train")


def newest(spec):
    return spec.stage_dir / "checkpoints" / f"step-{NEWEST:08d}"


def set_aside(spec):
    return sorted(path.name for path in (spec.stage_dir / "checkpoints").glob("corrupt-*"))


Damage = Callable[[Path], None]


def changed(name, change):
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


def flip(name):
    def at_the_middle(data):
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]

    return changed(name, at_the_middle)


def truncate(name):
    return changed(name, lambda data: data[:-5])


def remove(name):
    return lambda folder: (folder / name).unlink()


def manifest_of_another_step(folder):
    shutil.copy(folder.with_name(f"step-{BEFORE:08d}") / layout.MANIFEST, folder / layout.MANIFEST)


def all_files_of_another_step(folder):
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name(f"step-{BEFORE:08d}"), folder)


def nothing_inside(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def unreadable(folder):
    (folder / layout.MODEL).unlink()
    (folder / layout.MODEL).mkdir()


def rewritten(change):
    """Contents that no fault of storage makes: changed, and then hashed and sealed again."""

    def damage(folder):
        saved = read_checkpoint(folder)
        parts = {"model": dict(saved.model), "optimizer": dict(saved.optimizer), "state": saved.state, "hash": "h"}
        change(parts)
        shutil.rmtree(folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(protocol, "first_not_finite", lambda _: None)
            protocol.write_checkpoint(
                folder.parent, NEWEST, parts["model"], parts["optimizer"], parts["state"], {"stage_hash": parts["hash"]}
            )

    return damage


def resealed(name, data):
    """A file that does not parse, with its right hash in a right manifest."""

    def damage(folder):
        (folder / name).write_bytes(data)
        manifest = json.loads((folder / layout.MANIFEST).read_bytes())
        del manifest["manifest_sha256"]
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (folder / layout.MANIFEST).write_bytes(protocol.sealed(manifest))

    return damage


def _poison(tensors, value):
    name = min(tensors)
    tensors[name] = tensors[name].copy()
    tensors[name].reshape(-1)[-1] = value


def _reshape(tensors):
    name = next(name for name in tensors if tensors[name].ndim > 1)
    tensors[name] = tensors[name].reshape(-1)


# Two of them are trained to the end; that it is set aside unused is asked of every one.
DAMAGES: dict[str, Damage] = {
    "bit of the momentum": flip(layout.OPTIMIZER),
    "weights of another shape": rewritten(lambda parts: _reshape(parts["model"])),
    "weights cut short": truncate(layout.MODEL),
    "manifest cut short": truncate(layout.MANIFEST),
    "empty momentum": changed(layout.OPTIMIZER, lambda _: b""),
    "no state": remove(layout.STATE),
    "no manifest": remove(layout.MANIFEST),
    "manifest of another step": manifest_of_another_step,
    "poisoned weights": rewritten(lambda parts: _poison(parts["model"], np.nan)),
    "files of another step": all_files_of_another_step,
    "nothing inside": nothing_inside,
    "a folder for a file": unreadable,
    "poisoned momentum": rewritten(lambda parts: _poison(parts["optimizer"], np.inf)),
    "no weights": rewritten(lambda parts: parts["model"].clear()),
    "momentum of another shape": rewritten(lambda parts: _reshape(parts["optimizer"])),
    "no momentum": rewritten(lambda parts: parts["optimizer"].clear()),
    "momentum of another net": rewritten(lambda parts: parts["optimizer"].update(other=np.zeros(3, np.float32))),
    "of another stage": rewritten(lambda parts: parts.update(hash="another")),
    "state of another step": rewritten(lambda parts: parts["state"]["train"].update(step=BEFORE)),
    "state without a schedule": rewritten(lambda parts: parts["state"]["train"].pop("schedule")),
    "state that is a list": rewritten(lambda parts: parts.update(state=[])),
    "state of another program": rewritten(lambda parts: parts["state"]["train"].update(momentum=0.9)),
    "rates of another optimizer": rewritten(lambda parts: parts["state"]["train"].update(rates=[0.1, 0.1, 0.1])),
    "weights that are no safetensors": resealed(layout.MODEL, b"not a checkpoint"),
    "state that is no JSON": resealed(layout.STATE, b"\xff\xfe"),
    "manifest that is a list": lambda folder: (folder / layout.MANIFEST).write_text("[]") and None,
}


@pytest.mark.parametrize("damage", list(DAMAGES.values())[:2], ids=list(DAMAGES)[:2])
def test_stage_resumes_from_the_checkpoint_before_a_damaged_one(own, undisturbed, spec, damage):
    damage(newest(own))
    result = run_stage(own, never)
    assert result.resumed_from == BEFORE
    assert set_aside(own) == [f"corrupt-000-step-{NEWEST:08d}"]
    assert result.checkpoint_sha256 == undisturbed.checkpoint_sha256
    assert course(own.stage_dir) == course(spec.stage_dir)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_checkpoint_is_set_aside_unused(own, monkeypatch, damage):
    damage(newest(own))

    class Begun(Exception):
        """Where training would begin."""

    def begin(stage, state):
        assert state.step == BEFORE
        raise Begun

    monkeypatch.setattr(stage_module, "train", begin)
    with pytest.raises(Begun):
        run_stage(own, never)
    assert set_aside(own) == [f"corrupt-000-step-{NEWEST:08d}"]


@pytest.mark.parametrize("name", FILES)
def test_no_byte_of_a_checkpoint_can_change_unnoticed(tmp_path, name):
    tensors = {"w": np.arange(6, dtype=np.float32)}
    folder = protocol.write_checkpoint(tmp_path, 1, tensors, tensors, {"n": 1}, {"stage_hash": "s"}).folder
    data = (folder / name).read_bytes()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        (folder / name).write_bytes(damaged)
        with pytest.raises(StorageError):
            read_checkpoint(folder)
    (folder / name).write_bytes(data)
    assert read_checkpoint(folder).checkpoint.step == 1
