"""Checkpoints appear whole, and a damaged one is found before it is used."""

import errno
import json
import os
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from stored import read_checkpoint

from workers.errors import Diverged, StorageError
from workers.storage import (
    checkpoint as protocol,
    newest_checkpoint,
    prune,
    read_weights,
    verify_checkpoint,
    write_checkpoint,
)

WEIGHTS = {"conv1.weight": np.arange(12, dtype=np.float32).reshape(3, 4)}


def save(folder: Path, step: int) -> Path:
    return write_checkpoint(
        folder, step, WEIGHTS, {"conv1.weight": WEIGHTS["conv1.weight"] * step}, {"n": step}, {"stage_hash": "s"}
    ).folder


def steps(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("step-"))


def test_checkpoint_round_trip_returns_the_same_tensors(tmp_path):
    assert newest_checkpoint(tmp_path / "none") is None
    assert newest_checkpoint(tmp_path) is None
    save(tmp_path, 7)
    contents = newest_checkpoint(tmp_path)
    assert contents is not None
    assert contents.checkpoint.step == contents.state["n"] == 7
    assert np.array_equal(contents.model["conv1.weight"], WEIGHTS["conv1.weight"])
    assert np.array_equal(contents.optimizer["conv1.weight"], 7 * WEIGHTS["conv1.weight"])


def test_no_valid_checkpoint_left_stops_and_stays_stopped(tmp_path):
    (save(tmp_path, 1) / "model.safetensors").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(StorageError, match="no valid checkpoint left"):
            newest_checkpoint(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["model", "optimizer"])
def test_infinite_numbers_are_refused(tmp_path, monkeypatch, value, where):
    poisoned = np.zeros(600_000, np.float32)
    poisoned[-1] = value
    tensors = {"model": WEIGHTS, "optimizer": {}, where: {"w": poisoned}}
    with pytest.raises(Diverged, match="w are not finite") as caught:
        write_checkpoint(tmp_path, 1, tensors["model"], tensors["optimizer"], {}, {"stage_hash": "s"})
    assert caught.value.step == 1
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(protocol, "first_not_finite", lambda _: None)
        folder = write_checkpoint(tmp_path, 1, tensors["model"], tensors["optimizer"], {}, {"stage_hash": "s"}).folder
    with pytest.raises(StorageError, match="not finite"):
        read_checkpoint(folder)


def test_counts_beside_weights_are_no_numbers_to_be_finite(tmp_path):
    assert write_checkpoint(tmp_path, 1, {"n": np.array(3), **WEIGHTS}, {}, {}, {"stage_hash": "s"}).step == 1


def test_files_are_on_disk_before_the_manifest_and_the_name(tmp_path, monkeypatch):
    course: list[str] = []
    real_fsync, real_rename, real_open = os.fsync, Path.rename, Path.open

    def fsync(descriptor):
        course.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        real_fsync(descriptor)

    def opened(self, mode="r", *rest, **named):
        if "w" in mode:
            course.append(f"write {self.name}")
            assert stat.S_IMODE(self.parent.stat().st_mode) == 0o700
        return real_open(self, mode, *rest, **named)

    def rename(self, target):
        course.append(f"rename {target.name}")
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(Path, "rename", rename)
    save(tmp_path / "checkpoints", 1)
    names = ["model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"]
    assert course[:8] == [f"{what} {name}" for name in names for what in ("write", "fsync")]
    assert course[-3].startswith("fsync .tmp-step-00000001-")
    assert course[-2:] == ["rename step-00000001", "fsync checkpoints"]


def test_bytes_that_change_while_written_are_noticed(tmp_path, monkeypatch):
    save(tmp_path, 1)
    real = protocol.atomic_folder

    @contextmanager
    def forgetful(target, *check):
        with real(target, *check) as temporary:
            yield temporary
            (temporary / "optimizer.safetensors").write_bytes(b"what the disk made of it")

    monkeypatch.setattr(protocol, "atomic_folder", forgetful)
    with pytest.raises(StorageError, match=r"optimizer\.safetensors differs .* the storage returns other bytes"):
        save(tmp_path, 2)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["corrupt-000-step-00000002", "step-00000001"]


def test_pruning_counts_only_what_reads_well_and_deletes_nothing_before_two_do(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step)
    for step in (3, 4):
        (tmp_path / f"step-{step:08d}" / "state.json").write_bytes(b"{}")
    assert prune(tmp_path, (), verified={5}) == {2, 5}
    assert steps(tmp_path) == ["step-00000002", "step-00000005"]
    assert sum(entry.name.startswith("corrupt-") for entry in tmp_path.iterdir()) == 2
    (tmp_path / "step-00000002" / "state.json").write_bytes(b"{}")
    assert prune(tmp_path, ()) == {5}


@pytest.mark.parametrize("error", [errno.EACCES, errno.ESTALE, errno.EMFILE])
def test_failing_storage_sets_no_checkpoint_aside(tmp_path, monkeypatch, error):
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(protocol, "_read_own", Mock(side_effect=OSError(error, os.strerror(error))))
        with pytest.raises(StorageError, match=os.strerror(error)):
            newest_checkpoint(tmp_path)
    assert steps(tmp_path) == ["step-00000001"]
    assert newest_checkpoint(tmp_path) is not None


def test_setting_aside_takes_a_free_name(tmp_path):
    for removed in (None, None, "corrupt-000-step-00000001"):
        if removed:
            # Somebody took one away: its number is free, the next one's is not.
            shutil.rmtree(tmp_path / removed)
        (save(tmp_path, 1) / "state.json").write_bytes(b"")
        with pytest.raises(StorageError):
            newest_checkpoint(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "corrupt-000-step-00000001",
        "corrupt-001-step-00000001",
    ]
    save(tmp_path, 1)
    assert newest_checkpoint(tmp_path) is not None


def test_checkpoint_of_another_schema_is_refused(tmp_path):
    folder = save(tmp_path, 1)
    value = json.loads((folder / "MANIFEST.json").read_text())
    del value["manifest_sha256"]
    (folder / "MANIFEST.json").write_bytes(protocol.sealed({**value, "schema": 1}))
    with pytest.raises(StorageError, match="another checkpoint or schema"):
        verify_checkpoint(folder)


def test_saving_a_step_again_keeps_the_committed_one(tmp_path):
    first = save(tmp_path, 3).stat().st_ino
    assert save(tmp_path, 3).stat().st_ino == first


def test_weights_alone_are_verified_and_need_no_momentum(tmp_path):
    folder = save(tmp_path, 1)
    (folder / "optimizer.safetensors").unlink()
    weights = read_weights(folder)
    assert np.array_equal(weights.model["conv1.weight"], WEIGHTS["conv1.weight"])
    assert weights.checkpoint.step == 1
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(StorageError, match=r"model\.safetensors differs"):
        read_weights(folder)
