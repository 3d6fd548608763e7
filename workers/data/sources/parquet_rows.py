"""Reads images inside parquet files; a row group is read once for neighbouring rows."""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from workers.data.decoding import BadImage
from workers.data.sources.files import PlainFiles
from workers.data.sources.tree import Tree, driver_errors, one_line, said_by
from workers.errors import DataError, SourceLost

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData

# Memory for row groups, besides those that are being read.
_KEPT_BYTES = 256 << 20


@dataclass(frozen=True)
class Table:
    """A parquet file below the root: its footer, and its column of images (`struct.field` names a field)."""

    path: str
    metadata: "FileMetaData"
    images: str

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Row numbers at which row groups end."""
        groups = range(self.metadata.num_row_groups)
        return tuple(accumulate(self.metadata.row_group(group).num_rows for group in groups))


@dataclass(frozen=True)
class RowImages(PlainFiles):
    """Reads images of parquet files; a path is `<file>/<row>`."""

    tables: Mapping[str, Table]
    groups: "RowGroups" = field(compare=False)

    def read(self, path: str) -> bytes:
        file, _, number = path.rpartition("/")
        table, row = self.tables[file], int(number)
        group = bisect_right(table.ends, row)
        start = table.ends[group - 1] if group else 0
        content: bytes | None = self.groups.group(table, group)[row - start].as_py()
        if content is None:
            raise BadImage("no bytes in its row, perhaps only a path: store the image's bytes in the row")
        if not content:
            raise BadImage("empty file")
        return content


class RowGroups:
    """Images by row group, of which the most recent stay in memory; many threads read at once."""

    def __init__(self, tree: Tree, kept_bytes: int = _KEPT_BYTES) -> None:
        self._tree = tree
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[str, int], Future[Any]] = OrderedDict()
        self.num_read = 0

    def __getstate__(self) -> dict[str, object]:
        """Leaves out the groups in memory."""
        return {"_tree": self._tree, "_kept_bytes": self._kept_bytes}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["_tree"], state["_kept_bytes"])  # type: ignore[misc]

    def group(self, table: Table, group: int) -> Any:
        """Returns the images of a row group, an array of bytes; waits if another thread is reading it."""
        key = (table.path, group)
        with self._lock:
            is_mine = key not in self._groups
            if is_mine:
                self._groups[key] = Future()
                self.num_read += 1
            self._groups.move_to_end(key)
            future = self._groups[key]
        if is_mine:
            try:
                future.set_result(read_columns(self._tree, table.path, [table.images], table.metadata, [group])[0])
            except BaseException as error:
                with self._lock:
                    self._groups.pop(key, None)
                future.set_exception(error)
                raise
            self._forget()
        return future.result()

    def _forget(self) -> None:
        """Drops the least recently used groups."""
        with self._lock:
            read = ((key, future) for key, future in self._groups.items() if future.done() and not future.exception())
            done = {key: future.result().nbytes for key, future in read}
            excess = sum(done.values()) - self._kept_bytes
            for key in list(done)[:-1]:
                if excess <= 0:
                    break
                excess -= done[key]
                del self._groups[key]


def read_columns(
    tree: Tree,
    path: str,
    columns: Sequence[str],
    metadata: "FileMetaData | None" = None,
    groups: Sequence[int] | None = None,
) -> list[Any]:
    """Reads columns of a file, or of some of its row groups, as chunked arrays; `struct.field` names a field.

    Raises:
        DataError: the file is damaged.
        SourceLost: the file cannot be read.
    """
    from pyarrow import compute, parquet

    with _readable(tree, path), tree.reader(path) as source, parquet.ParquetFile(source, metadata=metadata) as file:
        chosen = range(file.num_row_groups) if groups is None else groups
        read = file.read_row_groups(list(chosen), columns=list(columns))
        whole = set(read.schema.names)
        return [
            read.column(name)
            if name in whole
            else compute.struct_field(read.column(name.partition(".")[0]), name.partition(".")[2].split("."))
            for name in columns
        ]


def read_footer(tree: Tree, path: str) -> "FileMetaData":
    """Reads the schema and row groups of a file; errors as `read_columns`."""
    from pyarrow import parquet

    with _readable(tree, path), tree.reader(path) as source, parquet.ParquetFile(source) as file:
        return file.metadata


@contextmanager
def _readable(tree: Tree, path: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, ValueError) as error:
        raise _damaged(tree, path, error) from error
    except driver_errors() as error:
        # For some damage pyarrow raises an OSError without an errno.
        if type(error) is OSError and error.errno is None:
            raise _damaged(tree, path, error) from error
        raise SourceLost(f"{tree.describe(path)}: {said_by(error)}") from error


def _damaged(tree: Tree, path: str, error: Exception) -> DataError:
    return DataError(f"{tree.describe(path)}: not a parquet file, or damaged ({one_line(error)}): fetch it again")
