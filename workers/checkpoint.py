"""Checkpoints: safetensors and JSON in a folder that appears whole, verified by sha256 before a byte of it is used.

`step-%08d/{model.safetensors, optimizer.safetensors, state.json, MANIFEST.json}`; MANIFEST.json is written last and
carries the size and sha256 of the others. Neither safetensors nor JSON notices a flipped bit, hence the hashes.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from workers.atomic import atomic_folder, remove_leftovers, storage_errors
from workers.digest import sha256_of
from workers.errors import StorageError
from workers.json_text import parse_json
from workers.tensor_file import safetensors_pieces, write_hashed

Tensors = Mapping[str, np.ndarray]

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
MANIFEST_FILE = "MANIFEST.json"
_SCHEMA = 1
_NAME = re.compile(r"step-(\d{8})")
_SET_ASIDE = "corrupt-"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint; `model_sha256` is the sha256 of its model.safetensors."""

    folder: Path
    step: int
    model_sha256: str


@dataclass(frozen=True)
class Weights:
    """The weights of a checkpoint, in memory."""

    checkpoint: Checkpoint
    model: dict[str, np.ndarray]


@dataclass(frozen=True)
class Contents(Weights):
    """All that a checkpoint holds, in memory."""

    optimizer: dict[str, np.ndarray]
    state: dict[str, Any]


class _Invalid(Exception):
    """Why a checkpoint cannot be used."""


def name_of(step: int) -> str:
    """The folder name of the checkpoint after `step` updates."""
    return f"step-{step:08d}"


def write_checkpoint(
    folder: Path, step: int, model: Tensors, optimizer: Tensors, state: Mapping[str, Any], identity: Mapping[str, Any]
) -> Checkpoint:
    """Commits `folder/step-…`; `identity` (stage hash, data digest, attempt) goes into the manifest.

    A checkpoint of the same step that is already there and valid holds the same bits and is kept.

    Args:
        folder: where the stage's checkpoints lie.
        step: the updates made.
        model: the weights and persistent buffers by name, float32 or int64; they must not change until this returns.
        optimizer: the momentum by name, likewise.
        state: what else the next update depends on, as JSON.
        identity: whose checkpoint it is.

    Raises:
        StorageError: the disk is full, or storage fails otherwise; nothing is left of the attempt.
    """
    target = folder / name_of(step)
    if target.exists():
        try:
            return _verified(target)
        except _Invalid as invalid:
            _set_aside(target, invalid)
    files = {
        MODEL_FILE: safetensors_pieces(model),
        OPTIMIZER_FILE: safetensors_pieces(optimizer),
        STATE_FILE: [json.dumps(state, indent=1, allow_nan=False).encode()],
    }
    described = {}
    with atomic_folder(target) as temporary:
        for name, pieces in files.items():
            with (temporary / name).open("wb") as file:
                described[name] = asdict(write_hashed(file, pieces))
        manifest = {"schema": _SCHEMA, "step": step, **identity, "files": described}
        (temporary / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1))
    return Checkpoint(target, step, described[MODEL_FILE]["sha256"])


def read_checkpoint(folder: Path) -> Contents:
    """Verifies and reads one named checkpoint.

    Raises:
        StorageError: it is missing or corrupt.
    """
    with _invalid_is_an_error(folder):
        return _read(folder)


def read_weights(folder: Path) -> Weights:
    """Verifies and reads the weights of one named checkpoint; its momentum, as large again, is left alone.

    Raises:
        StorageError: they are missing or corrupt.
    """
    with _invalid_is_an_error(folder):
        return _read_weights(folder, _manifest(folder))


def verify_checkpoint(folder: Path) -> Checkpoint:
    """Checks names, sizes and hashes of one named checkpoint against its manifest.

    Raises:
        StorageError: it is missing or corrupt.
    """
    with _invalid_is_an_error(folder):
        return _verified(folder)


def newest_checkpoint(folder: Path) -> Contents | None:
    """The newest valid checkpoint in `folder`; corrupt ones are set aside. None where there never was one.

    Raises:
        StorageError: there are checkpoints, and none is valid: a silent fresh start would hide the loss.
    """
    if not folder.is_dir():
        return None
    remove_leftovers(folder)
    candidates = _steps(folder)
    for step in sorted(candidates, reverse=True):
        try:
            return _read(folder / name_of(step))
        except _Invalid as invalid:
            _set_aside(folder / name_of(step), invalid)
    if candidates or any(folder.glob(f"{_SET_ASIDE}*")):
        raise StorageError(f"{folder}: no valid checkpoint left; remove the folder to train this stage from its start")
    return None


def prune(folder: Path, best_step: int | None, keep_last: int = 2) -> None:
    """Deletes all but the `keep_last` newest checkpoints and the best one."""
    for step in sorted(_steps(folder))[:-keep_last]:
        if step != best_step:
            shutil.rmtree(folder / name_of(step), ignore_errors=True)


def _steps(folder: Path) -> list[int]:
    with storage_errors(folder):
        return [int(match[1]) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name))]


def _set_aside(folder: Path, reason: Exception) -> None:
    number = sum(1 for _ in folder.parent.glob(f"{_SET_ASIDE}*"))
    _log.warning("%s: %s; set aside", folder, reason)
    with storage_errors(folder):
        folder.rename(folder.with_name(f"{_SET_ASIDE}{number:03d}-{folder.name}"))


def _manifest(folder: Path) -> dict[str, Any]:
    if folder.is_symlink():
        raise _Invalid("it is a link, which no checkpoint of ours is")
    try:
        manifest: dict[str, Any] = parse_json(_read_own(folder / MANIFEST_FILE))
        whole = manifest["schema"] == _SCHEMA and set(manifest["files"]) == {MODEL_FILE, OPTIMIZER_FILE, STATE_FILE}
        if not whole or name_of(manifest["step"]) != folder.name:
            raise _Invalid("its manifest is of another checkpoint or schema")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Invalid(f"its manifest cannot be read ({error})") from error
    return manifest


def _verified(folder: Path) -> Checkpoint:
    manifest = _manifest(folder)
    for name, described in manifest["files"].items():
        path = folder / name
        with _unreadable_is_invalid(path):
            same = path.lstat().st_size == described["size"] and sha256_of(path) == described["sha256"]
        if not same:
            raise _Invalid(f"{name} differs from its sha256")
    return _checkpoint(folder, manifest)


def _read(folder: Path) -> Contents:
    manifest = _manifest(folder)
    weights = _read_weights(folder, manifest)
    optimizer = _tensors(folder, OPTIMIZER_FILE, manifest)
    try:
        state = parse_json(_verified_bytes(folder, STATE_FILE, manifest))
    except ValueError as error:
        raise _Invalid(f"{STATE_FILE} is no JSON ({error})") from error
    if not isinstance(state, dict):
        raise _Invalid(f"{STATE_FILE} is no mapping")
    return Contents(weights.checkpoint, weights.model, optimizer, state)


def _read_weights(folder: Path, manifest: Mapping[str, Any]) -> Weights:
    model = _tensors(folder, MODEL_FILE, manifest)
    if not all(np.isfinite(tensor).all() for tensor in model.values()):
        raise _Invalid("its weights are not finite")
    return Weights(_checkpoint(folder, manifest), model)


def _tensors(folder: Path, name: str, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    try:
        return load(_verified_bytes(folder, name, manifest))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        # Whoever can replace a file can replace its sha256: a pickle is no more read than any other bytes.
        raise _Invalid(f"{name} is no safetensors file ({error})") from error


def _verified_bytes(folder: Path, name: str, manifest: Mapping[str, Any]) -> bytes:
    described = manifest["files"][name]
    with _unreadable_is_invalid(folder / name):
        data = _read_own(folder / name)
    if len(data) != described["size"] or hashlib.sha256(data).hexdigest() != described["sha256"]:
        raise _Invalid(f"{name} differs from its sha256")
    return data


def _read_own(path: Path) -> bytes:
    """The bytes of a file that lies here: what a link leads to may change behind the manifest's back."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), mode="rb") as file:
        return file.read()


def _checkpoint(folder: Path, manifest: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(folder, manifest["step"], manifest["files"][MODEL_FILE]["sha256"])


@contextmanager
def _unreadable_is_invalid(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _Invalid(f"{path.name} cannot be read ({error.strerror})") from error


@contextmanager
def _invalid_is_an_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except _Invalid as invalid:
        raise StorageError(f"{folder}: {invalid}; restore it, or remove its stage's folder to train it again") from None
