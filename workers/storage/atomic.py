"""Every artefact is written temp → fsync → rename → fsync of the parent: a reader sees the old or the new one."""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from workers.errors import StorageError

_STORAGE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
TEMPORARY_PREFIX = ".tmp-"
# renameat2(2): the folder that relative paths start from, and the flag that exchanges two names in one step.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
# Asked once, at import: it can only be told by changing it, and it is the whole process's.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns an OSError of the storage (full, read-only, I/O) into a StorageError naming `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in _STORAGE_ERRNOS:
            raise StorageError(f"{path}: {error.strerror}; free space or fix permissions, then run it again") from error
        raise


def fsync_folder(folder: Path) -> None:
    """Makes the names inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _always() -> None:
    pass


@contextmanager
def replacing(path: Path, check: Callable[[], None] = _always) -> Iterator[IO[bytes]]:
    """Yields a binary file that takes the place of `path` when the block ends well, and vanishes when it does not.

    `check` is called right before it does, and may raise.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_UMASK)
            check()
            temporary.replace(path)
            fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, check: Callable[[], None] = _always) -> None:
    """Replaces `path` by `data`; `check` as in `replacing`."""
    with replacing(path, check) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` by `value` as indented JSON; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


@contextmanager
def atomic_folder(target: Path, check: Callable[[], None] = _always) -> Iterator[Path]:
    """Yields an empty folder beside `target` that becomes `target` when the block ends well.

    Every file inside is fsynced before the rename; `check` is as in `replacing`.

    Raises:
        StorageError: `target` exists by then, or storage fails.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY_PREFIX}{target.name}-", dir=target.parent))
        try:
            yield temporary
            for folder, _, names in os.walk(temporary):
                for name in names:
                    descriptor = os.open(Path(folder, name), os.O_RDONLY)
                    try:
                        os.fsync(descriptor)
                    finally:
                        os.close(descriptor)
                fsync_folder(Path(folder))
            if target.exists():
                # The rename itself would take the place of an empty folder.
                raise StorageError(f"{target}: already there: another process writes in {target.parent}")
            check()
            temporary.rename(target)
            fsync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path, of: str = "", check: Callable[[], None] = _always) -> None:
    """Removes what a killed writer left in `folder`; only its one owner may call this.

    Who owns no more than one target there names it by `of`: only what `atomic_folder` left of that one is removed.
    `check` is called once it is known what there is to remove, and may raise.
    """
    with storage_errors(folder):
        found = list(folder.glob(f"{TEMPORARY_PREFIX}{of and f'{of}-'}*"))
        check()
        for leftover in found:
            if leftover.is_dir() and not leftover.is_symlink():
                # At once, before its files: a writer that is not dead but was stopped may rename it meanwhile, and must
                # find all of it or nothing.
                gone = leftover.with_name(f"{leftover.name}-gone")
                with contextlib.suppress(FileNotFoundError):
                    leftover.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder that takes the place of the folder `target`, with all in it, when the block ends well.

    Files that prove each other change together. Every file inside is fsynced before. Where names cannot be exchanged
    (NFS, macOS) a reader finds neither for an instant; a mix of old and new nowhere.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY_PREFIX}{target.name}-", dir=target.parent))
        try:
            yield temporary
            temporary.chmod(0o777 & ~_UMASK)
            for path in (*temporary.iterdir(), temporary):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            _take_place(temporary, target)
            fsync_folder(target.parent)
        finally:
            # Where the names were exchanged, this is what was there before.
            shutil.rmtree(temporary, ignore_errors=True)


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
    """Exchanges two names in one step; False where the system or the file system cannot."""
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
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(text: str | bytes) -> Any:
    """The value that `text` stands for.

    Raises:
        ValueError: it is no JSON, or is nested so deeply that Python's parser gives up.
    """
    try:
        return json.loads(text)
    except RecursionError:
        # A thousand brackets make one; it is no ValueError by itself, and would end as an internal error.
        raise ValueError("nested too deeply") from None
