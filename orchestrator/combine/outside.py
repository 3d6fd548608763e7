"""Reads members' probabilities that another tool made, and stores them like those that a run predicts."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine.predictions import Expected, Invalid, check_predictions, improper
from orchestrator.combine.rows import Block, blocks
from orchestrator.plan import OutsideFile, Plan
from orchestrator.run import Book, RunData, RunPaths, SplitData, spelled_as
from workers.data.store import write_npy
from workers.errors import DataError, some
from workers.protocol import SplitPredictions
from workers.storage import layout, sha256_of, write_json

if TYPE_CHECKING:
    from pyarrow import Table


def check_outside(paths: RunPaths, plan: Plan, data: RunData, book: Book, note: Callable[[str], None]) -> None:
    """Reads each file of another tool that the run has not stored yet; `note` is called with remarks.

    Raises:
        DataError: a file does not have one row of probabilities of the classes for each image of its split.
    """
    for member, split, file in _not_stored(paths, plan, data, book):
        _read(member, file, data.splits[split], data.classes, note)


def store_outside(paths: RunPaths, plan: Plan, data: RunData, book: Book) -> None:
    """Stores and commits what `check_outside` has read."""
    stored = {member: dict(book.committed.predictions.get(member, {})) for member in plan.outside}
    for member, split, file in _not_stored(paths, plan, data, book):
        block = _read(member, file, data.splits[split], data.classes)
        folder = paths.predictions(member)
        described = SplitPredictions(
            split=split,
            num_rows=len(block),
            num_classes=len(data.classes),
            rows_sha256=data.splits[split].rows_sha256,
            data_digest=data.digest,
            sha256=write_npy(folder / layout.probabilities(split), block).sha256,
            checkpoint=file.checkpoint,
            checkpoint_sha256=file.sha256,
        )
        write_json(folder / layout.described(split), asdict(described))
        stored[member][split] = described.sha256
    book.results({}, {member: own for member, own in stored.items() if own})


def _not_stored(paths: RunPaths, plan: Plan, data: RunData, book: Book) -> Iterator[tuple[str, str, OutsideFile]]:
    for member, files in plan.outside.items():
        for split, file in files.items():
            if (rows := data.splits.get(split)) is None:
                raise DataError(f"{_key(member, split)}: the prepared target has no image of {split}; remove it")
            recorded = book.committed.of_predictions(member, split)
            expected = Expected(data.digest, rows, len(data.classes), file, recorded)
            if isinstance(check_predictions(member, paths.predictions(member), split, expected), Invalid):
                yield member, split, file


def _key(member: str, split: str) -> str:
    return f"ensemble.members.{member}.predictions.{split}"


def _read(
    member: str, file: OutsideFile, split: SplitData, classes: Sequence[str], note: Callable[[str], None] | None = None
) -> Block:
    """Returns the probabilities (rows, classes) in the order of the split's rows and of `classes`."""
    where, path = f"{_key(member, split.name)}={file.path}", Path(file.path)
    try:
        if path.suffix.lower() == ".npy":
            block = _of_array(np.load(path, mmap_mode="r", allow_pickle=False), split, len(classes))
        else:
            table = _table(path)
            id_at = _id_place(table.column_names)
            columns = table.column_names[:id_at] + table.column_names[id_at + 1 :]
            _check_classes(columns, classes)
            order = _order(table.column(id_at).to_pylist(), split.rows)
            block = np.empty((len(split.rows), len(classes)), np.float32)
            for place, name in enumerate(classes):
                block[:, place] = table.column(name).to_numpy()[order]
            if note and columns != list(classes):
                note(f"{where}: its classes are in another order than data/{layout.CLASSES}; mapped by name")
        _check_rows(block, split.rows)
        if sha256_of(path) != file.sha256:
            raise ValueError("changed while it was read")
    except (OSError, ValueError, EOFError) as error:
        # Arrow's messages have several lines.
        raise DataError(f"{where}: {' '.join(str(error).split())}; correct the file, or leave it out") from error
    return block


def _of_array(array: NDArray[Any], split: SplitData, num_classes: int) -> Block:
    if array.dtype.kind != "f" or array.shape != (len(split.rows), num_classes):
        rows = f"rows as in data/{layout.rows(split.name)}, columns as in data/{layout.CLASSES}"
        raise ValueError(f"holds {array.dtype} {array.shape}, not floats {(len(split.rows), num_classes)}: {rows}")
    return np.ascontiguousarray(array, "<f4")


def _table(path: Path) -> "Table":
    """Reads a csv or parquet file: ids as text, since one may look like a number such as 007, all else as float64."""
    # Imported here, since Arrow takes a while to load.
    import pyarrow as pa
    from pyarrow import csv, parquet

    def kinds(names: Sequence[str]) -> list[tuple[str, Any]]:
        ids = names[_id_place(names)]
        return [(name, pa.string() if name == ids else pa.float64()) for name in names]

    try:
        if path.suffix.lower() == ".parquet":
            table = parquet.read_table(path)
            return table.cast(pa.schema(kinds(table.column_names)))
        with path.open("rb") as file:
            first = file.readline().decode(errors="replace")
        parse = csv.ParseOptions(delimiter=next((each for each in ",;\t" if each in first), ","))
        names = csv.open_csv(path, parse_options=parse).schema.names
        convert = csv.ConvertOptions(column_types=dict(kinds(names)))
        return csv.read_csv(path, parse_options=parse, convert_options=convert)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _id_place(names: Sequence[str]) -> int:
    return names.index("id") if "id" in names else 0


def _check_classes(columns: Sequence[str], classes: Sequence[str]) -> None:
    if doubled := [name for name, count in Counter(columns).items() if count > 1]:
        raise ValueError(f"has two columns {some(doubled)}")
    missing, unknown = (
        [n for n in one if n not in set(other)] for one, other in ((classes, columns), (columns, classes))
    )
    if missing or unknown:
        parts = (("has no column of the classes", missing), ("has columns that are no class", unknown))
        raise ValueError(", ".join(f"{what} {some(names)}" for what, names in parts if names))


def _order(ids: Sequence[str], rows: Sequence[str]) -> list[int]:
    """Returns the place of each row's id in `ids`."""
    names, places = spelled_as(ids, rows), {image_id: place for place, image_id in enumerate(ids)}
    known = set(names)
    for what, wrong in (
        ("has ids that are no image of this split", [one for one in places if one not in known]),
        ("has ids that name several images (write paths)", [one for one, n in Counter(names).items() if n > 1]),
        ("has two rows of", [one for one, n in Counter(ids).items() if n > 1]),
        ("has no row of", [name for name in names if name not in places]),
    ):
        if wrong:
            raise ValueError(f"{what} {some(list(map(str, wrong)))}")
    return [places[name] for name in names]


def _check_rows(block: Block, rows: Sequence[str]) -> None:
    for part in blocks(*block.shape):
        for row in improper(block[part])[:1]:
            total = block[part][row].sum(dtype=np.float64)
            proper = np.isfinite(total) and (block[part][row] >= 0).all()
            why = f"sums to {total:.4g}, not 1" if proper else "has a value that is negative or not finite"
            raise ValueError(f"the row of {rows[part.start + row]} {why}")
