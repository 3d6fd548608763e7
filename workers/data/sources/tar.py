"""Finds where the members of an uncompressed tar lie, so that each can be read in place; nothing is ever extracted.

A tar may lie inside another file at an offset: a tar of tars is listed by listing the outer one, then each inner one.
"""

import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from workers.data.decoding import BadImage
from workers.data.sources.tree import Tree, driver_errors, one_line, require_one_line, said_by
from workers.errors import DataError

# A path names an image in an archive as archive@offset+size/name.
_IN_ARCHIVE = re.compile(r"(?P<archive>.+?)@(?P<offset>\d+)\+(?P<size>\d+)/.+", re.DOTALL)
_BLOCK = tarfile.BLOCKSIZE
# Headers and long names are small: only a hostile header asks for a longer read.
_LONGEST_READ = 1 << 20
# Writers fill a tar up with zeros, to 10 KiB as a rule; nobody looks farther behind its end than this.
_LONGEST_TAIL = 1 << 16
_DAMAGED = (tarfile.TarError, ValueError, OverflowError, EOFError)


def path_in_archive(archive: str, offset: int, size: int, name: str) -> str:
    """The path of an image inside an archive; those of one archive sort as their images lie, which disks like."""
    return f"{archive}@{offset:012d}+{size}/{name}"


@dataclass(frozen=True)
class ArchivesAndFiles:
    """Images in files of their own, or in uncompressed tars, where their paths give the place.

    A path is all that a reader needs, in whatever process: no index of a million images has to travel with it.
    """

    tree: Tree

    @property
    def identity(self) -> str:
        return self.tree.identity

    @property
    def num_readers(self) -> int | None:
        return self.tree.num_readers

    def read(self, path: str) -> bytes:
        found = _IN_ARCHIVE.fullmatch(path)
        if found is None:
            return self.tree.read(path)
        size = int(found["size"])
        content = self.tree.read_range(found["archive"], int(found["offset"]), size) if size else b""
        if not content:
            raise BadImage("empty file")
        if len(content) < size:
            raise BadImage(f"the archive ends within it: {len(content)} bytes of {size}")
        return content


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `offset` … `offset + size` of a file."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar: its name as it is written there, and where its bytes lie in the outermost file.

    `problem` says why they must not be read (a link, a device, a name that leads out of the tar), or "".
    """

    name: str
    span: Span
    problem: str = ""


def index_tar(file: IO[bytes], within: Span, where: str) -> Iterator[Member]:
    """The regular files of a tar that must hold nothing else but folders; arguments and errors as `read_headers`.

    Raises:
        DataError: also where a member is no plain file below the tar's top, or its name does not fit on one line.
    """
    for member in read_headers(file, within, where):
        if member.problem:
            raise DataError(
                f"{where}: {member.name!a} {member.problem}; only plain files are read: make the tar without it"
            )
        if not (member.name.isascii() and member.name.isprintable()):
            require_one_line(member.name, where)
        yield member


def read_headers(file: IO[bytes], within: Span, where: str) -> Iterator[Member]:
    """All members of the tar that lies `within` an open, seekable file but folders, in the tar's own order.

    Args:
        file: only its headers are read; others may read from it meanwhile.
        within: the part of `file` that is the tar: all of it, or a member of an outer tar.
        where: names the tar in messages.

    Raises:
        DataError: no tar, or one that is compressed, truncated or damaged.
    """
    window = _Window(file, within)
    position = 0
    with readable(where):
        try:
            # Nearly all headers are of the plainest kind; tarfile takes over at the first that is not.
            while (found := _plain_header(window.at(position))) is not None:
                yield from _checked(found, position + _BLOCK, within, where)
                position += _BLOCK + -(-found.size // _BLOCK) * _BLOCK
            window.seek(position)
            yield from _by_tarfile(window, within, where)
        except _DAMAGED as error:
            is_gzip = window.at(0).startswith(b"\x1f\x8b")
            advice = "unpack it with gunzip, since images are read in place" if is_gzip else "fetch it again"
            raise DataError(f"{where}: cannot be read as a tar ({one_line(error)}); {advice}") from error


@contextmanager
def readable(where: str) -> Iterator[None]:
    """Raises DataError where an object store's driver fails inside the block."""
    try:
        yield
    except driver_errors() as error:
        raise DataError(f"{where}: {said_by(error)}") from error


def _by_tarfile(window: "_Window", within: Span, where: str) -> Iterator[Member]:
    """The members from the window's position on; the end too is checked here."""
    with tarfile.TarFile(fileobj=window, mode="r") as tar:  # type: ignore[arg-type]
        reached = -1
        while (info := tar.next()) is not None:
            if info.size < 0 or info.offset <= reached:
                raise DataError(f"{where}: damaged at byte {info.offset}: its headers lead in a circle; fetch it again")
            reached = info.offset
            # Those that were passed are dropped: an archive may hold millions.
            tar.members.clear()  # type: ignore[attr-defined]
            problem = ""
            if not info.isreg() or info.issparse():
                problem = "is a link" if info.issym() or info.islnk() else "is no plain file"
            header = _Header(info.name, info.size, info.isdir(), problem)
            yield from _checked(header, info.offset_data, within, where)
        _require_end(window, tar.offset, where)


def _require_end(window: "_Window", offset: int, where: str) -> None:
    """Raises DataError unless a tar ends where tarfile has stopped, which takes a damaged header for the end too."""
    if window.at(offset) != bytes(_BLOCK):
        raise DataError(
            f"{where}: truncated or damaged: no tar header and no end mark at byte {offset}; fetch it again"
        )
    if any(window.read(_LONGEST_TAIL)):
        raise DataError(
            f"{where}: holds more behind its end mark at byte {offset}, as tars that were joined by cat do; keep them "
            "apart, or join them with tar --concatenate"
        )


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    size: int
    is_folder: bool
    problem: str = ""


def _plain_header(block: bytes) -> _Header | None:
    """A header that says all in itself: a file or folder with a short name; None for any other, damaged ones too.

    Takes a third of the time that tarfile takes.
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
    """The member of a header whose content begins at `offset` of the tar; none for a folder."""
    if header.is_folder:
        return
    name, problem = header.name, header.problem
    if not problem and offset + header.size > within.size:
        raise DataError(f"{where}: truncated: {name!a} ends beyond it; fetch it again")
    if name.startswith("/") or ".." in name.split("/"):
        problem = "has a name that leads out of the archive"
    yield Member(name, Span(within.offset + offset, header.size), problem)


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

    def at(self, position: int) -> bytes:
        """The block at a position, or what is left of it."""
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
