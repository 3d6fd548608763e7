"""Checkpoints appear whole, and a damaged one is found before it is used."""

import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from workers import checkpoint as protocol
from workers.checkpoint import (
    newest_checkpoint,
    prune,
    read_checkpoint,
    read_weights,
    verify_checkpoint,
    write_checkpoint,
)
from workers.errors import StorageError

WEIGHTS = {"conv1.weight": np.arange(12, dtype=np.float32).reshape(3, 4)}


def save(folder: Path, step: int) -> Path:
    return write_checkpoint(
        folder, step, WEIGHTS, {"conv1.weight": WEIGHTS["conv1.weight"] * step}, {"n": step}, {}
    ).folder


def steps(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("step-"))


def test_checkpoint_round_trip_returns_the_same_tensors(tmp_path: Path) -> None:
    save(tmp_path, 7)
    contents = newest_checkpoint(tmp_path)
    assert contents is not None
    assert contents.checkpoint.step == contents.state["n"] == 7
    assert np.array_equal(contents.model["conv1.weight"], WEIGHTS["conv1.weight"])
    assert np.array_equal(contents.optimizer["conv1.weight"], 7 * WEIGHTS["conv1.weight"])


def test_stage_without_checkpoints_starts_fresh(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none") is None
    assert newest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_damaged_newest_falls_back_to_the_one_before(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes({"flip": data, "truncate": data[:-3], "empty": b"", "remove": b""}[damage])
    if damage == "remove":
        path.unlink()
    contents = newest_checkpoint(tmp_path)
    assert contents is not None
    # A flipped bit in the manifest may hit a space or a digit of no consequence; anything else must fall back.
    assert contents.checkpoint.step == 1 or (name == "MANIFEST.json" and damage == "flip")


def test_no_valid_checkpoint_left_stops_and_stays_stopped(tmp_path: Path) -> None:
    (save(tmp_path, 1) / "model.safetensors").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(StorageError, match="no valid checkpoint left"):
            newest_checkpoint(tmp_path)


def test_weights_that_are_not_finite_are_never_loaded(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 1, {"w": np.array([np.nan], np.float32)}, {}, {}, {}).folder
    with pytest.raises(StorageError, match="not finite"):
        read_checkpoint(folder)


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".tmp-abc").mkdir()
    (tmp_path / ".tmp-abc" / "model.safetensors").write_bytes(b"half")
    newest_checkpoint(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]


def test_pruning_keeps_the_best_and_the_last_two(tmp_path: Path) -> None:
    for step in range(1, 7):
        save(tmp_path, step)
        prune(tmp_path, best_step=min(step, 2))
    assert steps(tmp_path) == ["step-00000002", "step-00000005", "step-00000006"]


def test_saving_a_step_again_keeps_the_committed_one(tmp_path: Path) -> None:
    first = save(tmp_path, 3).stat().st_ino
    assert save(tmp_path, 3).stat().st_ino == first


def test_weights_alone_are_verified_and_need_no_momentum(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    (folder / "optimizer.safetensors").unlink()
    weights = read_weights(folder)
    assert np.array_equal(weights.model["conv1.weight"], WEIGHTS["conv1.weight"])
    assert weights.checkpoint.step == 1
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(StorageError, match=r"model\.safetensors differs"):
        read_weights(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_verification_finds_a_flipped_bit_and_a_missing_file(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path, 1)
    assert verify_checkpoint(folder).folder == folder
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(StorageError, match="differs from its sha256"):
        verify_checkpoint(folder)
    (folder / name).unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        verify_checkpoint(folder)


def test_full_disk_in_the_middle_of_a_file_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pieces(tensors: protocol.Tensors) -> Iterator[bytes]:
        yield b"first piece"
        raise OSError(errno.ENOSPC, "No space left on device")

    save(tmp_path, 1)
    monkeypatch.setattr(protocol, "safetensors_pieces", pieces)
    with pytest.raises(StorageError, match="No space left"):
        save(tmp_path, 2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]
