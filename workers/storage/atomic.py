"""Atomic writes: temporary name → fsync → rename → fsync of the parent; readers see the old file or the new one."""

import contextlib
import ctypes
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from workers.errors import StorageError

_STORAGE_ERRNOS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.ESTALE),
}
TEMPORARY_PREFIX = ".tmp-"
SEAL = "manifest_sha256"
# renameat2(2): the folder that relative paths start from, and the flag that exchanges two names in one step.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
# Read once, at import, because the only way to read it is to change it for the whole process.
_UMASK = os.umask(0o077)
os.umask(_UMASK)

Check = Callable[[], None]
# Folders that this process must not make again.
_held: set[Path] = set()


def hold(folder: Path) -> None:
    """Makes later writes below `folder` fail once it is renamed or deleted; else they would make a second one."""
    _held.add(folder)


def require_held(path: Path) -> None:
    """Raises StorageError if a held folder that `path` is in has been renamed or deleted."""
    # A copy: other threads may add to it.
    for folder in tuple(_held):
        if path.is_relative_to(folder) and not folder.is_dir():
            raise StorageError(
                f"{folder}: was renamed or deleted while it was in use; rename it back, or run it again on the new name"
            )


def _make_parent(path: Path) -> None:
    require_held(path)
    path.parent.mkdir(parents=True, exist_ok=True)


def nothing() -> None:
    """Does nothing, for work that no other attempt competes with, or that nobody watches or waits for."""


def is_of_storage(error: OSError) -> bool:
    """Returns whether an error is the storage's (full, read-only, unreadable, I/O), and no mistake in this code."""
    return error.errno in _STORAGE_ERRNOS


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns an OSError of the storage into a StorageError that names `path`."""
    try:
        yield
    except OSError as error:
        if is_of_storage(error):
            raise StorageError(f"{path}: {error.strerror}; free space or fix permissions, then run it again") from error
        raise


def make_folder(folder: Path, setting: str) -> list[Path]:
    """Makes a folder; returns those that were not there, innermost first; raises StorageError with the `setting`."""
    try:
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{setting}={folder}: cannot be used ({error.strerror}); give another") from error
    return missing


def fsync(path: Path) -> None:
    """Makes a file's content, or the names inside a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, check: Check = nothing) -> Iterator[IO[bytes]]:
    """Yields a binary file that replaces `path` when the block succeeds, and is deleted if it fails.

    `check` is called right before the rename, and may raise.
    """
    with storage_errors(path):
        _make_parent(path)
        descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                # By the open file: leftovers of a worker that was replaced are deleted.
                os.fchmod(file.fileno(), 0o666 & ~_UMASK)
                os.fsync(file.fileno())
            check()
            temporary.replace(path)
            fsync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, check: Check = nothing) -> None:
    """Replaces `path` by `data`; `check` as in `replacing`."""
    with replacing(path, check) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` by `value` as indented JSON; raises ValueError on NaN, which JSON lacks."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, value: Any) -> None:
    """Replaces `path` by a dataclass as a JSON object, with a line for each entry of each of its mappings.

    It is for what is written often and may be large: json indents a line at a time, and writes a line at a stroke.

    Raises:
        ValueError: on NaN, which JSON lacks.
    """

    def mapping(inner: Any) -> dict[str, Any]:
        return {each.name: getattr(inner, each.name) for each in dataclasses.fields(inner)}

    def text(inner: Any) -> str:
        return json.dumps(inner, default=mapping, allow_nan=False, ensure_ascii=False)

    def lines(inner: Any) -> str:
        entries = mapping(inner) if dataclasses.is_dataclass(inner) else inner
        if not isinstance(entries, Mapping) or not entries:
            return text(entries)
        return "{\n" + ",\n".join(f"  {text(key)}: {text(each)}" for key, each in entries.items()) + "\n }"

    write_text(
        path, "{\n" + ",\n".join(f" {text(key)}: {lines(each)}" for key, each in mapping(value).items()) + "\n}\n"
    )


def atomic_folder(target: Path, check: Check = nothing) -> AbstractContextManager[Path]:
    """Yields an empty folder beside `target` that becomes `target` when the block succeeds.

    Every file inside is fsynced before the rename. `check` is as in `replacing`.

    Raises:
        StorageError: `target` already exists at the end, or storage fails.
    """

    def commit(folder: Path) -> None:
        if target.exists():
            # Checked here, because the rename would silently replace an empty folder.
            raise StorageError(f"{target}: already exists: another process writes to {target.parent}; stop one")
        check()
        folder.rename(target)

    return _temporary_folder(target, commit)


@contextmanager
def _temporary_folder(target: Path, commit: Callable[[Path], None]) -> Iterator[Path]:
    with storage_errors(target):
        _make_parent(target)
        temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY_PREFIX}{target.name}-", dir=target.parent))
        try:
            yield temporary
            temporary.chmod(0o777 & ~_UMASK)
            for parent, _, names in os.walk(temporary):
                for name in names:
                    fsync(Path(parent, name))
                fsync(Path(parent))
            commit(temporary)
            fsync(target.parent)
        finally:
            # After an exchange of names, this is the old folder.
            shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path, of: str = "", check: Check = nothing) -> None:
    """Deletes the temporary files of killed writers in `folder`; only the folder's owner may call this.

    An owner of only one target names it by `of`: then only what `atomic_folder` left of that target is deleted. `check`
    is called after the folder is listed and before anything is deleted, and may raise.
    """
    with storage_errors(folder):
        found = list(folder.glob(f"{TEMPORARY_PREFIX}{of and f'{of}-'}*"))
        check()
        for leftover in found:
            if leftover.is_dir() and not leftover.is_symlink():
                # The folder is renamed before its files are deleted. Its writer may only be suspended; when it resumes,
                # its rename must find the whole folder or none.
                gone = leftover.with_name(f"{leftover.name}-gone")
                with contextlib.suppress(FileNotFoundError):
                    leftover.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def replacing_folder(target: Path) -> AbstractContextManager[Path]:
    """Yields an empty folder that replaces the folder `target` in one rename when the block succeeds.

    Every file inside is fsynced before. If the file system cannot exchange names (NFS, macOS), there is no folder for
    an instant, but never a mix of old and new files.
    """
    return _temporary_folder(target, partial(_take_place, target=target))


def _take_place(folder: Path, target: Path) -> None:
    if not target.exists():
        folder.rename(target)
    elif not _exchange(folder, target):
        aside = folder.with_name(f"{folder.name}-before")
        target.rename(aside)
        try:
            folder.rename(target)
        except BaseException:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two names in one step; returns False if the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """Serialises a manifest in its only valid form, with its own sha256, so that any changed byte is detected."""
    seal = hashlib.sha256(_seal_text(manifest)).hexdigest()
    return _seal_text({**manifest, SEAL: seal})


def is_sealed(data: bytes, manifest: Mapping[str, Any]) -> bool:
    """Returns whether `data` is what `sealed` made of `manifest`, which was parsed from it."""
    return data == sealed({key: value for key, value in manifest.items() if key != SEAL})


def _seal_text(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1, allow_nan=False, ensure_ascii=False).encode()


def parse_json(text: str | bytes) -> Any:
    """Parses JSON; raises ValueError if `text` is not JSON or is nested too deeply for Python's parser."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
