"""Where the members of an uncompressed tar lie, so that each can be read in place; nothing is ever extracted.

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

# How a path names an image in an archive: archive@offset+size/name.
_IN_ARCHIVE = re.compile(r"(?P<archive>.+?)@(?P<offset>\d+)\+(?P<size>\d+)/.+", re.DOTALL)


def path_in_archive(archive: str, offset: int, size: int, name: str) -> str:
    """The path of an image inside an archive; those of one archive sort as their images lie, which disks like."""
    return f"{archive}@{offset:012d}+{size}/{name}"


@dataclass(frozen=True)
class ArchivesAndFiles:
    """Images in files of their own, or in uncompressed tars, where their paths say at which place.

    So a path is all that a reader needs, in whatever process: no index of a million images has to travel with it.
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


_BLOCK = tarfile.BLOCKSIZE
# Headers and long names are small: a longer read is what a hostile header asks for.
_LONGEST_READ = 1 << 20
# Writers fill a tar up with zeros, to 10 KiB as a rule: what lies farther behind its end is not looked at.
_LONGEST_TAIL = 1 << 16
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
    window = Window(file, within)
    position = 0
    with _readable(where):
        # Nearly all headers are of the plainest kind; tarfile takes over at the first that is not.
        while (found := _plain_header(window.at(position))) is not None:
            yield _member(found, position + _BLOCK, within, where)
            position += _BLOCK + -(-found.size // _BLOCK) * _BLOCK
        window.seek(position)
        yield from _by_tarfile(window, within, where)


def _by_tarfile(window: "Window", within: Span, where: str) -> Iterator[Member]:
    """The members from the window's position on; the end too is checked here."""
    with tarfile.TarFile(fileobj=window, mode="r") as tar:  # type: ignore[arg-type]
        reached = -1
        while (info := tar.next()) is not None:
            if info.size < 0 or info.offset <= reached:
                raise DataError(f"{where}: damaged at byte {info.offset}: its headers lead in a circle; fetch it again")
            reached = info.offset
            # All that was passed is let go: an archive may hold millions.
            tar.members.clear()  # type: ignore[attr-defined]
            if info.isdir():
                continue
            if not info.isreg() or info.issparse():
                kind = "a link" if info.issym() or info.islnk() else "no plain file"
                raise DataError(f"{where}: {info.name!a} is {kind}; only plain files are read: make the tar without it")
            yield _member(_Header(info.name, info.size), info.offset_data, within, where)
        require_end(window, tar.offset, where)


def require_end(window: "Window", offset: int, where: str) -> None:
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


def _plain_header(block: bytes) -> _Header | None:
    """A header that says all in itself: a regular file with a short name; None for whatever else, damaged ones too.

    A third of the time that tarfile takes.
    """
    if len(block) < _BLOCK or block[156] not in (0, 0x30) or block[345] or block[257:262] != b"ustar":
        return None
    try:
        if int(block[148:154], 8) != sum(block) - sum(block[148:156]) + 8 * 0x20:
            return None
        header = _Header(block[:100].partition(b"\0")[0].decode(), int(block[124:135], 8))
    except ValueError:
        return None
    return None if header.name.endswith("/") or header.size < 0 else header


def _member(header: _Header, offset: int, within: Span, where: str) -> Member:
    name = header.name
    if name.startswith("/") or ".." in name.split("/"):
        raise DataError(f"{where}: {name!a} points outside the tar; make the tar without it")
    if not (name.isascii() and name.isprintable()):
        require_one_line(name, where)
    if offset + header.size > within.size:
        raise DataError(f"{where}: truncated: {name} ends beyond it; fetch it again")
    return Member(name, Span(within.offset + offset, header.size))


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise DataError(f"{where}: cannot be read as a tar ({one_line(error)}); fetch it again") from error
    except driver_errors() as error:
        raise DataError(f"{where}: {said_by(error)}") from error


class Window:
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
