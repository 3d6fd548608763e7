"""Where the members of an uncompressed tar lie, so that each can be read in place; nothing is ever extracted.

A tar may lie inside another file at an offset: a tar of tars is listed by listing the outer one, then each inner one.
"""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from workers.data.tree import driver_errors, one_line, require_one_line, said_by
from workers.errors import DataError

_BLOCK = tarfile.BLOCKSIZE
# Headers and long names are small: a longer read is what a hostile header asks for.
_LONGEST_READ = 1 << 20
_DAMAGED = (tarfile.TarError, ValueError, OverflowError, EOFError)


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `offset` … `offset + size` of a file."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of a tar: its name as it is written there, and where its bytes lie in the outermost file."""

    name: str
    span: Span


def index_tar(file: IO[bytes], within: Span, where: str) -> Iterator[Member]:
    """The regular files of the tar that lies `within` an open, seekable file, in the tar's own order.

    Args:
        file: read by header only; its position is changed.
        within: the part of `file` that is the tar: all of it, or a member of an outer tar.
        where: how the tar is called in messages.

    Raises:
        DataError: no tar, truncated or damaged; or a member that is no plain file below the tar's top (a link, a
            device, an absolute path, `..`), or whose name does not fit on one line of UTF-8.
    """
    window = _Window(file, within)
    with _readable(where), tarfile.TarFile(fileobj=window, mode="r") as tar:  # type: ignore[arg-type]
        reached = -1
        while (info := tar.next()) is not None:
            if info.size < 0 or info.offset <= reached:
                raise DataError(f"{where}: damaged at byte {info.offset}: its headers lead in a circle; fetch it again")
            reached = info.offset
            # All that was passed is let go: an archive may hold millions.
            tar.members.clear()  # type: ignore[attr-defined]
            if info.isdir():
                continue
            _require_plain(info, where)
            if info.offset_data + info.size > within.size:
                raise DataError(f"{where}: truncated: {info.name} ends beyond it; fetch it again")
            yield Member(info.name, Span(within.offset + info.offset_data, info.size))
        # tarfile takes a damaged header for the end. Only a block of zeros is one.
        window.seek(tar.offset)
        if window.read(_BLOCK) != bytes(_BLOCK):
            raise DataError(
                f"{where}: truncated or damaged: no tar header and no end mark at byte {tar.offset}; fetch it again"
            )


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise DataError(f"{where}: cannot be read as a tar ({one_line(error)}); fetch it again") from error
    except driver_errors() as error:
        raise DataError(f"{where}: {said_by(error)}") from error


def _require_plain(info: tarfile.TarInfo, where: str) -> None:
    name = info.name
    if not info.isreg() or info.issparse():
        kind = "a link" if info.issym() or info.islnk() else "no plain file"
        raise DataError(f"{where}: {name!a} is {kind}; only plain files are read: make the tar without it")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: {name!a} points outside the tar; make the tar without it")
    require_one_line(name, where)


class _Window:
    """The part of a file that is a tar, as a file of its own; as much of one as tarfile uses to read headers."""

    def __init__(self, file: IO[bytes], span: Span) -> None:
        self._file, self._span = file, span
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        self._position = position
        return position

    def read(self, size: int) -> bytes:
        size = min(size, self._span.size - self._position)
        if size <= 0:
            return b""
        if size > _LONGEST_READ:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self._file.seek(self._span.offset + self._position)
        content = self._file.read(size)
        self._position += len(content)
        return content
