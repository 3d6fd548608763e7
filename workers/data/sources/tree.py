"""The files of a dataset: in a folder of this machine, or of an object store, which fsspec reads by URL."""

import os
import re
import stat
import sys
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from workers.data.decoding import BadImage, read_content
from workers.errors import DataError, SourceLost
from workers.settings import DatasetSettings, is_url
from workers.storage import expanded

# An object store takes tens of milliseconds to answer any request, so many are sent at once.
_REMOTE_READERS = 16
# Block of a remote file: a shard's small images come many at a time, and large ones can be skipped.
_BLOCK_BYTES = 1 << 20
# Folders that systems put beside a user's own: macOS into archives, Windows on disks, network storage for previews.
_SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
# Deeper nesting of folders means that a link leads back to a folder above it.
_DEEPEST = 32
# Object stores' names for the mark that changes with an object's content; the first one present counts.
_MARKS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "updated", "mtime", "created")
# Errors of drivers that are not OSErrors, by the module that owns them once a driver has loaded it.
_DRIVER_ERRORS = {
    "botocore.exceptions": "BotoCoreError",
    "aiohttp": "ClientError",
    "gcsfs.retry": "HttpError",
    "google.auth.exceptions": "GoogleAuthError",
    "azure.core.exceptions": "AzureError",
    # Of zip:// and tar:// roots.
    "zipfile": "BadZipFile",
    "tarfile": "TarError",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder: its name and its path below the root; of a file, also bytes and a mark of its content."""

    name: str
    path: str
    is_folder: bool
    size: int = 0
    version: str = ""


@dataclass(frozen=True)
class LocalTree:
    """A folder of this machine or of mounted storage; paths are relative to it, with slashes, and "" is the folder.

    `num_readers` is the number of threads that should read at once; None for one per core.
    """

    root: Path

    num_readers: ClassVar[int | None] = None

    @property
    def identity(self) -> str:
        """The root, since two roots with equal names, sizes and times may differ in pixels."""
        return str(self.root.resolve())

    def describe(self, path: str) -> str:
        """Returns the full path for messages."""
        return str(self.root / path)

    def find(self, path: str) -> Entry | None:
        """Returns the file or folder at `path`, None if there is none; raises DataError if a store does not answer."""
        place = self.root / path
        try:
            status = place.stat()
        except OSError:
            return None
        return Entry(place.name, path, stat.S_ISDIR(status.st_mode), status.st_size, _version(status))

    def entries(self, folder: str) -> tuple[Entry, ...]:
        """Lists a folder in code-point order without hidden entries.

        Raises DataError if it cannot be listed, or has a name that does not fit on one line of UTF-8.
        """
        place = self.root / folder
        try:
            with os.scandir(place) as found:
                inside = sorted((each for each in found if not _is_hidden(each.name)), key=lambda each: each.name)
        except OSError as error:
            raise DataError(f"{place}: cannot be listed: {error.strerror}") from error
        for each in inside:
            require_one_line(each.name, str(place))
        return tuple(_entry(each, _below(folder, each.name)) for each in inside)

    def read(self, path: str) -> bytes:
        """Reads a file; raises BadImage if it is missing or empty, SourceLost if a store does not answer."""
        return read_content(self.root / path)

    def read_range(self, path: str, start: int, size: int) -> bytes:
        """Reads at most `size` bytes from `start` on; errors as `read`."""
        try:
            with (self.root / path).open("rb") as file:
                return os.pread(file.fileno(), size, start)
        except OSError as error:
            raise BadImage(error.strerror or "cannot be read") from error

    def reader(self, path: str) -> IO[bytes]:
        """Opens a regular file, to be read in pieces; raises DataError."""
        place = self.root / path
        try:
            # Opening a pipe would block.
            if not stat.S_ISREG(place.stat().st_mode):
                raise DataError(f"{place}: not a regular file: replace it")
            return place.open("rb")
        except OSError as error:
            raise SourceLost(f"{place}: cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class RemoteTree:
    """The same in an object store: `url` as written, `system` fsspec's driver, `base` the driver's name for it."""

    url: str
    system: Any
    base: str

    num_readers: ClassVar[int | None] = _REMOTE_READERS

    @property
    def identity(self) -> str:
        return self.url

    def describe(self, path: str) -> str:
        return _below(self.url, path)

    def find(self, path: str) -> Entry | None:
        with self._answering(path):
            try:
                return self._entry(self.system.info(_below(self.base, path)), path)
            except FileNotFoundError:
                return None

    def entries(self, folder: str) -> tuple[Entry, ...]:
        place = _below(self.base, folder)
        with self._answering(folder):
            try:
                listed = self.system.ls(place, detail=True)
            except FileNotFoundError as error:
                raise DataError(f"{self.describe(folder)}: cannot be listed: no such folder") from error
        inside = []
        for info in listed:
            name = str(info["name"]).rstrip("/").rsplit("/", 1)[-1]
            # Some tools create an object for the folder itself.
            if str(info["name"]).strip("/") != place.strip("/") and not _is_hidden(name):
                require_one_line(name, self.describe(folder))
                inside.append(self._entry(info, _below(folder, name)))
        return tuple(sorted(inside, key=lambda each: each.name))

    def read(self, path: str) -> bytes:
        content = self._read(path)
        if not content:
            raise BadImage("empty file")
        return content

    def read_range(self, path: str, start: int, size: int) -> bytes:
        return self._read(path, start=start, end=start + size)

    def reader(self, path: str) -> IO[bytes]:
        with self._answering(path):
            opened: IO[bytes] = self.system.open(_below(self.base, path), mode="rb", block_size=_BLOCK_BYTES)
            return opened

    def _read(self, path: str, **bounds: int) -> bytes:
        with self._answering(path):
            try:
                return bytes(self.system.cat_file(_below(self.base, path), **bounds))
            except FileNotFoundError as error:
                raise BadImage("the file is gone") from error

    def _entry(self, info: dict[str, Any], path: str) -> Entry:
        mark = next((str(info[key]) for key in _MARKS if info.get(key) is not None), "")
        size = int(info.get("size") or 0)
        return Entry(path.rsplit("/", 1)[-1], path, info["type"] == "directory", size, f"{size}\0{mark}")

    @contextmanager
    def _answering(self, path: str) -> Iterator[None]:
        """Raises SourceLost on an outage, which must not count as a bad image that may be skipped."""
        try:
            yield
        except driver_errors() as error:
            raise SourceLost(f"{self.describe(path)}: {said_by(error)}") from error


Tree = LocalTree | RemoteTree


def open_root(settings: DatasetSettings) -> Tree:
    """Returns the root that `settings` name.

    Raises:
        DataError: the root is not set, missing or unreachable, or its driver is not installed.
    """
    if settings.root is None:
        raise DataError("no root: set datasets.<name>.root=FOLDER")
    tree = tree_at(settings.root)
    found = tree.find("")
    if found is not None and not found.is_folder:
        raise DataError(f"{tree.describe('')}: a file, not a folder: unpack it, and set datasets.<name>.root to that")
    if found is None:
        raise DataError(f"{tree.describe('')}: no such folder: set datasets.<name>.root to the folder with the data")
    return tree


def tree_at(root: str) -> Tree:
    """Returns the files below a path or URL, which may be missing; raises DataError if there is no driver for it."""
    root = root.removeprefix("file://")
    if not is_url(root):
        return LocalTree(expanded(root))
    from fsspec.core import url_to_fs

    url = root.rstrip("/")
    try:
        # Not cached, because another process may change the files while this one runs.
        system, base = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        scheme = url.partition("://")[0]
        package = "septet[s3]" if scheme in ("s3", "s3a") else f"fsspec[{scheme}]"
        raise DataError(f"{url}: no driver for {scheme}:// is installed: pip install '{package}'") from error
    except ValueError as error:
        raise DataError(f"{url}: {one_line(error)}: give a folder, or s3://BUCKET/…") from error
    except driver_errors() as error:
        raise DataError(f"{url}: {said_by(error)}") from error
    return RemoteTree(url, system, base)


def read_text(tree: Tree, path: str) -> str:
    """Reads a file as UTF-8, or as UTF-16 if its byte-order mark says so; raises DataError if it is neither."""
    try:
        content = tree.read(path)
        return content.decode("utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    except (BadImage, UnicodeDecodeError) as error:
        why = f"cannot be read as text in UTF-8: {one_line(error)}; save it in UTF-8"
        raise DataError(f"{tree.describe(path)}: {why}") from error


def walk(tree: Tree, folder: str) -> Iterator[Entry]:
    """Yields all files at any depth below a folder; raises DataError if links lead in a circle."""
    if folder.count("/") >= _DEEPEST:
        raise DataError(f"{tree.describe(folder)}: nested too deeply; a link may lead in a circle: remove it")
    for entry in tree.entries(folder):
        if entry.is_folder:
            yield from walk(tree, entry.path)
        else:
            yield entry


def driver_errors() -> tuple[type[Exception], ...]:
    """Returns the errors of reading from object stores; drivers turn most network errors into OSError, but not all."""
    owned = [getattr(sys.modules.get(module), name, None) for module, name in _DRIVER_ERRORS.items()]
    return (OSError, *(error for error in owned if error is not None))


def said_by(error: Exception) -> str:
    """Returns a message for an error of an object store's driver, with advice."""
    return (
        f"cannot be read ({one_line(error)}): check the address, the network and the credentials in the environment, "
        "then run it again"
    )


def one_line(error: Exception) -> str:
    """Returns the message of another library's error on one line, without the signatures of addresses."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"\?\S*", "?…", text) if "://" in text else text


def require_one_line(name: str, where: str) -> None:
    """Raises DataError if a name does not fit on one line of UTF-8, on which rows and classes are written."""
    if name.splitlines() != [name] or any("\ud800" <= letter <= "\udfff" for letter in name):
        raise DataError(f"{where}: the name {name!a} does not fit on one line of UTF-8: rename it")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def _below(folder: str, name: str) -> str:
    return "/".join(part for part in (folder, name) if part)


def _entry(found: os.DirEntry[str], path: str) -> Entry:
    try:
        # A link to itself raises here.
        if found.is_dir():
            return Entry(found.name, path, is_folder=True)
        status = found.stat()
    except OSError:
        return Entry(found.name, path, is_folder=False, version="missing")
    return Entry(found.name, path, is_folder=False, size=status.st_size, version=_version(status))


def _version(status: os.stat_result) -> str:
    return f"{status.st_size}\0{status.st_mtime_ns}"
