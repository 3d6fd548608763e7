"""Finds the offsets of an uncompressed tar's members, so that each can be read in place; nothing is extracted.

A tar may be a part of another file: a tar of tars is listed by listing the outer one, then each inner one.
"""

import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from workers.data.decoding import BadImage
from workers.data.sources.files import PlainFiles
from workers.data.sources.tree import driver_errors, one_line, require_one_line, said_by
from workers.errors import DataError

# The path of an image in an archive is archive@offset+size/name.
_IN_ARCHIVE = re.compile(r"(?P<archive>.+?)@(?P<offset>\d+)\+(?P<size>\d+)/.+", re.DOTALL)
_BLOCK = tarfile.BLOCKSIZE
# Headers and long names are small; only a hostile header needs a longer read.
_LONGEST_READ = 1 << 20
# Writers pad a tar with zeros, usually to 10 KiB. This much is checked after its end.
_LONGEST_TAIL = 1 << 16
_DAMAGED = (tarfile.TarError, ValueError, OverflowError, EOFError)


def path_in_archive(archive: str, offset: int, size: int, name: str) -> str:
    """Returns the path of an image inside an archive; paths sort by offset, so that reads are sequential."""
    return f"{archive}@{offset:012d}+{size}/{name}"


@dataclass(frozen=True)
class ArchivesAndFiles(PlainFiles):
    """Reads images in files of their own, or in uncompressed tars at the offset in their path.

    A reader in another process needs only the path, and no index of a million images.
    """

    def read(self, path: str) -> bytes:
        found = _IN_ARCHIVE.fullmatch(path)
        if found is None:
            return super().read(path)
        size = int(found["size"])
        content = self.tree.read_range(found["archive"], int(found["offset"]), size) if size else b""
        if not content:
            raise BadImage("empty file")
        if len(content) < size:
            raise BadImage(f"the archive ends after {len(content)} of its {size} bytes")
        return content


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `offset` … `offset + size` of a file."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar: its name as written, and the span of its bytes in the outermost file.

    `problem` is the reason why they must not be read (a link, a device, a name that leads out of the tar), or "".
    """

    name: str
    span: Span
    problem: str = ""


def index_tar(file: IO[bytes], within: Span, where: str) -> Iterator[Member]:
    """Yields the regular files of a tar that has nothing else but folders; arguments and errors as `read_headers`.

    Raises:
        DataError: a member is not a plain file or leads out of the tar, or its name does not fit on one line.
    """
    for member in read_headers(file, within, where):
        if member.problem:
            raise DataError(f"{where}: {member.name!a} {member.problem}; only plain files are read: leave it out")
        if not (member.name.isascii() and member.name.isprintable()):
            require_one_line(member.name, where)
        yield member


def read_headers(file: IO[bytes], within: Span, where: str) -> Iterator[Member]:
    """Yields all members but folders of the tar `within` an open, seekable file, in the tar's order.

    Args:
        file: only its headers are read; the caller may read from it between members.
        within: the part of `file` that is the tar: all of it, or a member of an outer tar.
        where: names the tar in messages.

    Raises:
        DataError: the tar is compressed, truncated or damaged, or no tar.
    """
    window = _Window(file, within)
    position = 0
    with readable(where):
        try:
            # Nearly all headers are plain; tarfile reads the rest from the first that is not.
            while (found := _plain_header(window.at(position))) is not None:
                yield from _checked(found, position + _BLOCK, within, where)
                position += _BLOCK + -(-found.size // _BLOCK) * _BLOCK
            window.seek(position)
            yield from _by_tarfile(window, within, where)
        except _DAMAGED as error:
            is_gzip = window.at(0).startswith(b"\x1f\x8b")
            advice = "unpack it with gunzip, because images are read in place" if is_gzip else "fetch it again"
            raise DataError(f"{where}: cannot be read as a tar ({one_line(error)}); {advice}") from error


@contextmanager
def readable(where: str) -> Iterator[None]:
    """Raises DataError if an object store's driver fails inside the block."""
    try:
        yield
    except driver_errors() as error:
        raise DataError(f"{where}: {said_by(error)}") from error


def _by_tarfile(window: "_Window", within: Span, where: str) -> Iterator[Member]:
    """Yields the members from the window's position on, and checks the tar's end."""
    with tarfile.TarFile(fileobj=window, mode="r") as tar:  # type: ignore[arg-type]
        reached = -1
        while (info := tar.next()) is not None:
            if info.size < 0 or info.offset <= reached:
                raise DataError(f"{where}: damaged at byte {info.offset}: its headers lead in a circle; fetch it again")
            reached = info.offset
            # Dropped to save memory, because an archive may have millions of members.
            tar.members.clear()  # type: ignore[attr-defined]
            problem = ""
            if not info.isreg() or info.issparse():
                problem = "is a link" if info.issym() or info.islnk() else "is not a plain file"
            header = _Header(info.name, info.size, info.isdir(), problem)
            yield from _checked(header, info.offset_data, within, where)
        _require_end(window, tar.offset, where)


def _require_end(window: "_Window", offset: int, where: str) -> None:
    """Raises DataError unless a tar ends where tarfile stopped, because tarfile also stops at a damaged header."""
    if window.at(offset) != bytes(_BLOCK):
        raise DataError(f"{where}: truncated or damaged: no tar header and no end mark at byte {offset}; fetch again")
    if any(window.read(_LONGEST_TAIL)):
        raise DataError(
            f"{where}: has data after its end mark at byte {offset}, like tars joined by cat; keep them apart, or join "
            "them with tar --concatenate"
        )


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    size: int
    is_folder: bool
    problem: str = ""


def _plain_header(block: bytes) -> _Header | None:
    """Parses the header of a file or folder with a short name; None for any other or a damaged header.

    It takes a third of tarfile's time.
    """
    if len(block) < _BLOCK or block[156] not in b"\x0005" or block[345] or block[257:262] != b"ustar":
        return None
    try:
        if int(block[148:154], 8) != sum(block) - sum(block[148:156]) + 8 * 0x20:
            return None
        name, size = block[:100].partition(b"\0")[0].decode(), int(block[124:135], 8)
    except ValueError:
        return None
    is_folder = block[156] == 0x35 or name.endswith("/")
    return None if size < 0 or (is_folder and size) else _Header(name, size, is_folder)


def _checked(header: _Header, offset: int, within: Span, where: str) -> Iterator[Member]:
    """Yields the member of a header whose content starts at `offset` of the tar; nothing for a folder."""
    if header.is_folder:
        return
    name, problem = header.name, header.problem
    if not problem and offset + header.size > within.size:
        raise DataError(f"{where}: truncated inside {name!a}; fetch it again")
    if name.startswith("/") or ".." in name.split("/"):
        problem = "has a name that leads out of the archive"
    yield Member(name, Span(within.offset + offset, header.size), problem)


class _Window:
    """The part of a file that is a tar, with the methods of a file that tarfile uses to read headers."""

    def __init__(self, file: IO[bytes], span: Span) -> None:
        self._file, self._span = file, span
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        self._position = position
        return position

    def at(self, position: int) -> bytes:
        """Reads the block at a position, or the rest of it."""
        self._position = position
        return self.read(_BLOCK)

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
