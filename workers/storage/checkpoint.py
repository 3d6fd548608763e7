"""Checkpoints: safetensors and JSON in a folder that appears whole, and is verified by sha256 before it is used.

`step-%08d/{model.safetensors, optimizer.safetensors, state.json, MANIFEST.json}`. Each file is on the disk before the
next is started. MANIFEST.json, the last, has the size and sha256 of the others, the stage that the checkpoint belongs
to, and a sha256 of itself. The hashes are needed because neither safetensors nor JSON detects a flipped bit. Weights
that are not finite are never written.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from workers.errors import Diverged, StorageError, StorageSilent
from workers.storage import layout
from workers.storage.atomic import (
    SEAL,
    Check,
    atomic_folder,
    is_sealed,
    nothing,
    parse_json,
    remove_leftovers,
    sealed,
    sha256_of,
    storage_errors,
    write_bytes,
)
from workers.storage.heartbeat import beating
from workers.storage.tensor_file import Written, first_not_finite, safetensors_pieces, write_hashed

Tensors = Mapping[str, np.ndarray]

_SCHEMA = 2
_FILES = {layout.MODEL, layout.OPTIMIZER, layout.STATE}
_SET_ASIDE = "corrupt-"
# A checkpoint whose read fails with one of these is damaged. After other errors (no permission, no memory, a server out
# of reach) it may be good, and must not be set aside.
_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ELOOP, errno.EBADMSG, errno.EUCLEAN}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint; `model_sha256` is the sha256 of its model.safetensors."""

    folder: Path
    step: int
    model_sha256: str
    stage_hash: str


@dataclass(frozen=True)
class Weights:
    """The weights of a checkpoint, in memory."""

    checkpoint: Checkpoint
    model: dict[str, np.ndarray]


@dataclass(frozen=True)
class Contents(Weights):
    """The whole content of a checkpoint, in memory."""

    optimizer: dict[str, np.ndarray]
    state: dict[str, Any]


class _Invalid(Exception):
    """A checkpoint cannot be used; the message is the reason."""


def write_checkpoint(
    folder: Path,
    step: int,
    model: Tensors,
    optimizer: Tensors | None,
    state: Mapping[str, Any],
    identity: Mapping[str, Any],
    beat: Callable[[], None] = nothing,
    check: Check = nothing,
) -> Checkpoint:
    """Commits `folder/step-…`, or `folder/averaged-…` without `optimizer`, and verifies it by reading it again.

    A valid checkpoint of the same step that already exists has the same bits, and is kept.

    Args:
        folder: the folder of the stage's checkpoints.
        step: the number of updates made.
        model: the weights and persistent buffers by name, float32 or int64; they must not change until this returns.
        optimizer: the optimizer's state by name, likewise; None for averaged weights, which nothing resumes from.
        state: the rest that the next update depends on, as JSON.
        identity: entries of the manifest that identify the stage, `stage_hash` among them.
        beat: called again and again while bytes are written.
        check: called before any name is created, changed or deleted; may raise.

    Raises:
        Diverged: a weight, a buffer or a state of the optimizer is not finite; nothing is written.
        StorageError: the disk is full, storage fails otherwise, or returns other bytes than were written; only
            checkpoints that were set aside are left.
    """
    for what, tensors in (("the weights", model), ("the optimizer's state", optimizer)):
        name = first_not_finite(tensors or {})
        if name is not None:
            raise Diverged(f"after update {step}: {what} of {name} are not finite, and are not saved", step=step)
    target = folder / (layout.averaged if optimizer is None else layout.checkpoint)(step)
    if target.exists():
        try:
            return _verified(target)
        except _Invalid as invalid:
            _set_aside(target, invalid, check)
    files = {
        layout.MODEL: safetensors_pieces(model),
        **({} if optimizer is None else {layout.OPTIMIZER: safetensors_pieces(optimizer)}),
        layout.STATE: [json.dumps(state, indent=1, allow_nan=False).encode()],
    }
    with atomic_folder(target, check) as temporary:
        written = {name: _write_durably(temporary / name, beating(pieces, beat)) for name, pieces in files.items()}
        described = {name: asdict(each) for name, each in written.items()}
        manifest = {"schema": _SCHEMA, "step": step, **identity, "files": described}
        _write_durably(temporary / layout.MANIFEST, [sealed(manifest)])
    try:
        return _verified(target)
    except _Invalid as invalid:
        _set_aside(target, invalid, check)
        raise StorageError(
            f"{target}: {invalid} when read again: the storage returns other bytes than were written; check the disk"
        ) from None


def _write_durably(path: Path, pieces: Iterable[memoryview | bytes]) -> Written:
    """Writes a file to the disk and drops it from the page cache if possible, so that the next read is of the disk."""
    with path.open("wb") as file:
        written = write_hashed(file, pieces)
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return written


def read_weights(folder: Path) -> Weights:
    """Verifies and reads the weights of one named checkpoint, but not its optimizer state, which is as large or larger.

    Raises:
        StorageError: the weights are missing or corrupt.
    """
    with _invalid_is_an_error(folder):
        return _read_weights(folder, _manifest(folder))


def verify_checkpoint(folder: Path) -> Checkpoint:
    """Checks names, sizes and hashes of one named checkpoint against its manifest.

    Raises:
        StorageError: the checkpoint is missing or corrupt.
    """
    with _invalid_is_an_error(folder):
        return _verified(folder)


def newest_checkpoint(
    folder: Path, misfit: Callable[[Contents], str] = lambda _contents: "", check: Check = nothing
) -> Contents | None:
    """Reads the newest valid checkpoint in `folder` and sets invalid ones aside; None if there never was one.

    Args:
        folder: the folder of the stage's checkpoints.
        misfit: returns the reason why training cannot resume from valid contents (shapes, state), or "".
        check: called before any name is changed; may raise.

    Raises:
        StorageError: there are checkpoints but none is valid (a silent fresh start would hide the loss), or storage
            does not answer.
    """
    if not folder.is_dir():
        return None
    remove_leftovers(folder, check=check)
    candidates = steps_of(folder)
    for step in sorted(candidates, reverse=True):
        try:
            contents = _read(folder / layout.checkpoint(step))
            reason = misfit(contents)
            if reason:
                raise _Invalid(reason)
        except _Invalid as invalid:
            _set_aside(folder / layout.checkpoint(step), invalid, check)
        else:
            return contents
    if candidates or any(folder.glob(f"{_SET_ASIDE}*")):
        raise StorageError(f"{folder}: no valid checkpoint left; delete the folder to train this stage from its start")
    return None


def newest_step(folder: Path) -> int:
    """Returns the update that a stage resumes from if its newest checkpoint is valid; 0 for a fresh start."""
    steps = (step for step in steps_of(folder) if (folder / layout.checkpoint(step) / layout.MANIFEST).exists())
    return max(steps, default=0)


def prune(
    folder: Path, wanted: Collection[int], verified: Collection[int] = (), keep_last: int = 2, check: Check = nothing
) -> set[int]:
    """Deletes all checkpoints but those of the steps `wanted` and the `keep_last` newest valid ones.

    Returns the steps of the latter. Averaged weights are left alone.

    Checkpoints whose steps are not in `verified` are read, and set aside if they are invalid. Nothing is deleted until
    there are `keep_last` valid ones. `check` is called before any name is changed, and may raise.
    """
    kept: set[int] = set()
    for step in sorted(steps_of(folder), reverse=True):
        one = folder / layout.checkpoint(step)
        if len(kept) == keep_last:
            if step not in wanted:
                check()
                shutil.rmtree(one, ignore_errors=True)
            continue
        try:
            if step not in verified:
                _verified(one)
            kept.add(step)
        except _Invalid as invalid:
            _set_aside(one, invalid, check)
    return kept


def keep_weights(folder: Path, name: str, *, dry_run: bool = False) -> int:
    """Deletes all checkpoints in `folder` but `name`, also those set aside, and the optimizer state of `name`.

    Its weights stay valid, but training cannot resume from it. Returns the bytes freed, and only counts with `dry_run`.

    Raises:
        StorageError: the checkpoint `name` is missing or corrupt; nothing is deleted.
    """
    kept = verify_checkpoint(folder / name).folder
    with storage_errors(folder):
        averaged = [entry for entry in folder.iterdir() if layout.is_averaged(entry.name)]
        steps = (folder / layout.checkpoint(step) for step in steps_of(folder))
        others = [*folder.glob(f"{_SET_ASIDE}*"), *averaged, *steps]
        others.remove(kept)
        files = [file for one in others for file in one.rglob("*") if file.is_file()]
        files += [kept / layout.OPTIMIZER] if (kept / layout.OPTIMIZER).exists() else []
        freed = sum(file.lstat().st_size for file in files)
        if dry_run:
            return freed
        for one in others:
            shutil.rmtree(one)
        manifest = parse_json((kept / layout.MANIFEST).read_bytes())
        if manifest["files"].pop(layout.OPTIMIZER, None):
            said = {key: value for key, value in manifest.items() if key != SEAL}
            write_bytes(kept / layout.MANIFEST, sealed(said))
        # Only now, so that the manifest never names a file that is gone.
        (kept / layout.OPTIMIZER).unlink(missing_ok=True)
    return freed


def steps_of(folder: Path) -> list[int]:
    """Returns the steps of all checkpoints in `folder`, valid or not, in no order."""
    if not folder.is_dir():
        return []
    with storage_errors(folder):
        return [step for entry in folder.iterdir() if (step := layout.step_of(entry.name)) is not None]


def _set_aside(folder: Path, reason: Exception, check: Check) -> None:
    check()
    taken = {path.name.removeprefix(_SET_ASIDE)[:3] for path in folder.parent.glob(f"{_SET_ASIDE}*")}
    number = next(number for number in range(len(taken) + 1) if f"{number:03d}" not in taken)
    target = folder.with_name(f"{_SET_ASIDE}{number:03d}-{folder.name}")
    _log.warning("%s: %s; set aside as %s", folder, reason, target.name)
    with storage_errors(folder):
        folder.rename(target)


def _manifest(folder: Path) -> dict[str, Any]:
    if folder.is_symlink():
        raise _Invalid("it is a link and not a folder")
    with _unreadable_is_invalid(folder / layout.MANIFEST):
        data = _read_own(folder / layout.MANIFEST)
    try:
        manifest: dict[str, Any] = parse_json(data)
        # Averaged weights have no optimizer state, and `keep_weights` deletes it.
        whole = manifest["schema"] == _SCHEMA and {*manifest["files"], layout.OPTIMIZER} == _FILES
        names = layout.checkpoint(manifest["step"]), layout.averaged(manifest["step"])
        own = folder.name in names and isinstance(manifest["stage_hash"], str)
        if not (whole and own):
            raise _Invalid("its manifest belongs to another checkpoint or schema")
        if not is_sealed(data, manifest):
            raise _Invalid("its manifest differs from its own sha256")
        manifest["files"] = {name: Written(**described) for name, described in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Invalid(f"its manifest cannot be read ({error})") from error
    return manifest


def _verified(folder: Path) -> Checkpoint:
    manifest = _manifest(folder)
    for name, described in manifest["files"].items():
        path = folder / name
        with _unreadable_is_invalid(path):
            same = path.lstat().st_size == described.size and sha256_of(path) == described.sha256
        if not same:
            raise _Invalid(f"{name} differs from its sha256")
    return _checkpoint(folder, manifest)


def _read(folder: Path) -> Contents:
    manifest = _manifest(folder)
    if layout.OPTIMIZER not in manifest["files"]:
        raise StorageError(
            f"{folder}: `septet clean` deleted its optimizer state, without which training cannot resume; delete the "
            "stage's folder to train it from its start, or launch into another run_dir"
        )
    weights = _read_weights(folder, manifest)
    optimizer = _tensors(folder, layout.OPTIMIZER, manifest)
    try:
        state = parse_json(_verified_bytes(folder, layout.STATE, manifest))
    except ValueError as error:
        raise _Invalid(f"{layout.STATE} is not JSON ({error})") from error
    if not isinstance(state, dict):
        raise _Invalid(f"{layout.STATE} is not a mapping")
    return Contents(weights.checkpoint, weights.model, optimizer, state)


def _read_weights(folder: Path, manifest: Mapping[str, Any]) -> Weights:
    return Weights(_checkpoint(folder, manifest), _tensors(folder, layout.MODEL, manifest))


def _tensors(folder: Path, name: str, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    data = _verified_bytes(folder, name, manifest)
    try:
        tensors: dict[str, np.ndarray] = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        # The hashes do not protect against an attacker, but safetensors never runs code, unlike pickle.
        raise _Invalid(f"{name} is not a safetensors file ({error})") from error
    poisoned = first_not_finite(tensors)
    if poisoned is not None:
        raise _Invalid(f"{poisoned} in {name} is not finite")
    return tensors


def _verified_bytes(folder: Path, name: str, manifest: Mapping[str, Any]) -> bytes:
    described = manifest["files"][name]
    with _unreadable_is_invalid(folder / name):
        data = _read_own(folder / name)
    if len(data) != described.size or hashlib.sha256(data).hexdigest() != described.sha256:
        raise _Invalid(f"{name} differs from its sha256")
    return data


def _read_own(path: Path) -> bytes:
    """Reads a file but never follows a link, whose target could change without the manifest."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), mode="rb") as file:
        return file.read()


def _checkpoint(folder: Path, manifest: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(folder, manifest["step"], manifest["files"][layout.MODEL].sha256, manifest["stage_hash"])


@contextmanager
def _unreadable_is_invalid(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _DAMAGE:
            raise _Invalid(f"{path.name} cannot be read ({error.strerror})") from error
        raise StorageSilent(f"{path}: {error.strerror}; make it readable, then run it again") from error


@contextmanager
def _invalid_is_an_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except _Invalid as invalid:
        raise StorageError(f"{folder}: {invalid}; restore it, or delete its stage's folder to train it again") from None
