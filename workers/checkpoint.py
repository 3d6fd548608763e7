"""Checkpoints: safetensors and JSON in a folder that appears whole, verified by sha256 before a byte of it is used.

`step-%08d/{model.safetensors, optimizer.safetensors, state.json, MANIFEST.json}`; MANIFEST.json is written last and
carries the size and sha256 of the others. Neither safetensors nor JSON notices a flipped bit, hence the hashes.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from workers.atomic import atomic_folder, remove_leftovers
from workers.errors import StorageError

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
class Contents:
    """What a checkpoint holds, in memory."""

    checkpoint: Checkpoint
    model: dict[str, np.ndarray]
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
    """
    target = folder / name_of(step)
    if target.exists():
        try:
            return verify(target)
        except _Invalid as invalid:
            _set_aside(target, invalid)
    files = {
        MODEL_FILE: save(dict(model)),
        OPTIMIZER_FILE: save(dict(optimizer)),
        STATE_FILE: json.dumps(state, indent=1, allow_nan=False).encode(),
    }
    described = {name: {"size": len(data), "sha256": _sha256(data)} for name, data in files.items()}
    manifest = {"schema": _SCHEMA, "step": step, **identity, "files": described}
    with atomic_folder(target) as temporary:
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        (temporary / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1))
    return Checkpoint(target, step, str(described[MODEL_FILE]["sha256"]))


def read_checkpoint(folder: Path) -> Contents:
    """Verifies and reads one named checkpoint.

    Raises:
        StorageError: it is missing or corrupt.
    """
    try:
        return _read(folder)
    except _Invalid as invalid:
        raise StorageError(f"{folder}: {invalid}; restore it, or remove its stage's folder to train it again") from None


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


def verify(folder: Path) -> Checkpoint:
    """Checks names, sizes and hashes against the manifest."""
    manifest = _manifest(folder)
    for name, described in manifest["files"].items():
        _verified_bytes(folder / name, described)
    return Checkpoint(folder, manifest["step"], manifest["files"][MODEL_FILE]["sha256"])


def _steps(folder: Path) -> list[int]:
    return [int(match[1]) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name))]


def _set_aside(folder: Path, reason: Exception) -> None:
    number = sum(1 for _ in folder.parent.glob(f"{_SET_ASIDE}*"))
    _log.warning("%s: %s; set aside", folder, reason)
    folder.rename(folder.with_name(f"{_SET_ASIDE}{number:03d}-{folder.name}"))


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_bytes())
        whole = manifest["schema"] == _SCHEMA and set(manifest["files"]) == {MODEL_FILE, OPTIMIZER_FILE, STATE_FILE}
        if not whole or name_of(manifest["step"]) != folder.name:
            raise _Invalid("its manifest is of another checkpoint or schema")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Invalid(f"its manifest cannot be read ({error})") from error
    return manifest


def _verified_bytes(path: Path, described: Mapping[str, Any]) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _Invalid(f"{path.name} cannot be read ({error.strerror})") from error
    if len(data) != described["size"] or _sha256(data) != described["sha256"]:
        raise _Invalid(f"{path.name} differs from its sha256")
    return data


def _read(folder: Path) -> Contents:
    manifest = _manifest(folder)
    data = {name: _verified_bytes(folder / name, described) for name, described in manifest["files"].items()}
    model, optimizer = load(data[MODEL_FILE]), load(data[OPTIMIZER_FILE])
    if not all(np.isfinite(tensor).all() for tensor in model.values()):
        raise _Invalid("its weights are not finite")
    checkpoint = Checkpoint(folder, manifest["step"], manifest["files"][MODEL_FILE]["sha256"])
    return Contents(checkpoint, model, optimizer, json.loads(data[STATE_FILE]))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
