"""Parquet files with a row for each image, in the Hugging Face layout.

`train-*.parquet`, `validation-*.parquet` and `test-*.parquet`, in the root or in `data/`, or what patterns name. A row
has an image, `struct{bytes, path}` or plain bytes, and a label: a name, or a number whose name is in the schema's
metadata.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from workers.data.sources.classes import (
    SplitLabels,
    file_listing,
    found_at,
    grouped,
    naming,
    read_class_names,
    require_names,
)
from workers.data.sources.csv_table import divide_alike
from workers.data.sources.files import FileListing, ImageFile
from workers.data.sources.listing import LeftOut
from workers.data.sources.parquet_rows import RowGroups, RowImages, Table, read_columns, read_footer
from workers.data.sources.patterns import split_files
from workers.data.sources.tree import Entry, Tree, open_root, require_one_line
from workers.errors import DataError, some
from workers.settings import DatasetSettings
from workers.storage import parse_json
from workers.threads import map_in_order

if TYPE_CHECKING:
    from pyarrow import DataType, Schema

_IMAGES = ("image", "img", "pixels", "picture")
_LABELS = ("label", "labels", "class", "target", "fine_label", "category")
_LEAF = "bytes"


@dataclass(frozen=True)
class _Rows:
    """The rows of a file: ids, labels as written ("" for none), and the class names in the file's metadata."""

    file: Entry
    table: Table
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    names: tuple[str, ...] | None


def list_parquet(settings: DatasetSettings) -> FileListing:
    """Lists parquet files by their footers, and reads ids and labels, but no images.

    A row's id comes from `id_column`, which may be a struct's field (`image.path`). Without it, the id is the file's
    stem and the row's number, so that rows in code-point order are neighbours.

    With `on_bad=skip`, rows of train and val without a label are reported as left out.

    Raises:
        DataError: files or columns are missing, a file is damaged, a label is missing or no class, or `file_listing`
            raises.
    """
    tree = open_root(settings)
    files = split_files(tree, settings, ".parquet")
    splits = {
        split: tuple(map_in_order(partial(_rows, tree, settings, split), listed, tree.num_readers))
        for split, listed in files.items()
    }
    every = [rows for split in splits.values() for rows in split]
    names = read_class_names(settings) or _one_naming(tree, every)
    known = naming((label for rows in splits["train"] for label in rows.labels), names, tree.describe(""))
    left_out: list[LeftOut] = []
    by_class = {}
    for split, files_of_split in splits.items():
        written = (label for rows in files_of_split for label in rows.labels)
        labels = SplitLabels(settings, split, known, written, "row")
        by_class[split] = _by_class(tree, files_of_split, labels)
        left_out += labels.left_out
    found = found_at(tree.describe(""), known.order(by_class["train"]), by_class, tuple(left_out))
    tables = {rows.file.path: rows.table for rows in every}
    return file_listing(settings, RowImages(tree, tables, RowGroups(tree)), found)


def _one_naming(tree: Tree, every: Sequence[_Rows]) -> tuple[str, ...] | None:
    """Returns the class names in the files' schemas; raises DataError if two files with labels differ."""
    first, *others = every
    for rows in others:
        if any(rows.labels) and rows.names is not None and rows.names != first.names:
            raise DataError(
                f"{tree.describe(rows.file.path)}: its schema names other classes than that of {first.file.path}, or "
                "in another order: if their numbers mean the same, set datasets.<name>.class_names"
            )
    return first.names


def _rows(tree: Tree, settings: DatasetSettings, split: str, file: Entry) -> _Rows:
    at = tree.describe(file.path)
    metadata = read_footer(tree, file.path)
    schema = metadata.schema.to_arrow_schema()
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{at}: two columns are called {twice}: rename one")
    features = _features(schema)
    images = _image_column(settings, schema, features, at)
    found = _label_columns(settings, schema, features)
    label = found[0] if found else None
    if label is None and split != "test":
        raise DataError(
            f"{at}: no known column of labels (columns: {some(schema.names, 10)}): set datasets.<name>.label_column"
        )
    # Test's labels may all be missing.
    found = found[:1] if split == "test" else found
    wanted = [*found, *([] if settings.id_column is None else [settings.id_column])]
    for name in wanted:
        if not _has(schema, name):
            raise DataError(f"{at}: no column {name} (columns: {some(schema.names, 10)}): name one of them")
    columns = dict(zip(wanted, read_columns(tree, file.path, wanted, metadata), strict=True)) if wanted else {}
    for name in found[1:]:
        mine, its = (tuple(map(str, columns[each].to_pylist())) for each in (found[0], name))
        if not divide_alike(mine, its):
            raise DataError(f"{at}: labels may be {label} or {name}: set datasets.<name>.label_column to one of them")
    labels = ("",) * metadata.num_rows if label is None else _labels(columns[label], at, label)
    if settings.id_column is None:
        stem = file.name.removesuffix(".parquet")
        ids = tuple(f"{stem}/{row:07d}" for row in range(metadata.num_rows))
    else:
        ids = _ids(columns[settings.id_column], at, settings.id_column)
    return _Rows(file, Table(file.path, metadata, images), ids, labels, _class_names(features, label, at))


def _by_class(tree: Tree, files: Sequence[_Rows], labels: SplitLabels) -> dict[str, list[ImageFile]]:
    """Groups images by class; raises DataError as `SplitLabels.class_of`."""
    found: list[ImageFile] = []
    for rows in files:
        at = tree.describe(rows.file.path)
        for row, (row_id, written) in enumerate(zip(rows.ids, rows.labels, strict=True)):
            path = f"{rows.file.path}/{row:07d}"
            name = labels.class_of(written, f"{at}: row {row}", path)
            if name is not None:
                found.append(ImageFile(path, row_id, name, rows.file.version))
    return grouped(found)


def _features(schema: "Schema") -> dict[str, Any]:
    """Returns the Hugging Face library's description of each column in a file's metadata; {} if there is none."""
    try:
        features = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: each for name, each in features.items() if isinstance(each, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _class_names(features: dict[str, Any], label: str | None, at: str) -> tuple[str, ...] | None:
    names = features.get(label or "", {}).get("names")
    if not isinstance(names, list) or not names:
        return None
    told = tuple(str(name) for name in names)
    require_names(told, at)
    return told


def _image_column(settings: DatasetSettings, schema: "Schema", features: dict[str, Any], at: str) -> str:
    """Returns the column of images, or its field with their bytes."""
    name = settings.image_column
    if name is None:
        told = [each for each, feature in features.items() if feature.get("_type") == "Image" and each in schema.names]
        usual = [each for each in _IMAGES if each in schema.names]
        held = [each for each in schema.names if _leaf(schema.field(each).type) is not None]
        found = next((each for each in (told if len(told) == 1 else [], usual, told, held) if each), [])
        if len(found) > 1:
            raise DataError(f"{at}: images may be {' or '.join(found)}: set datasets.<name>.image_column to one")
        name = next(iter(found), None)
    if name is None or name not in schema.names:
        missing = "no column of images" if name is None else f"no column {name}"
        raise DataError(f"{at}: {missing} (columns: {some(schema.names, 10)}): set datasets.<name>.image_column")
    leaf = _leaf(schema.field(name).type)
    if leaf is None:
        raise DataError(
            f"{at}: column {name} has {schema.field(name).type}, not the bytes of images: set "
            "datasets.<name>.image_column"
        )
    return f"{name}.{leaf}" if leaf else name


def _leaf(kind: "DataType") -> str | None:
    """Returns the field of a struct with an image's bytes; "" if the column has them itself, None if nothing has."""
    from pyarrow import types

    if types.is_binary(kind) or types.is_large_binary(kind):
        return ""
    if types.is_struct(kind) and kind.get_field_index(_LEAF) >= 0:
        return _LEAF if _leaf(kind.field(_LEAF).type) == "" else None
    return None


def _label_columns(settings: DatasetSettings, schema: "Schema", features: dict[str, Any]) -> list[str]:
    """Returns the columns that may be labels: what the settings or the schema say, else those with usual names."""
    if settings.label_column is not None:
        return [settings.label_column]
    told = [name for name, each in features.items() if each.get("_type") == "ClassLabel" and name in schema.names]
    usual = [name for name in _LABELS if name in schema.names and name != settings.id_column]
    return told if len(told) == 1 else usual or told


def _has(schema: "Schema", name: str) -> bool:
    from pyarrow import types

    if name in schema.names:
        return True
    top, _, inner = name.partition(".")
    if top not in schema.names or not types.is_struct(schema.field(top).type):
        return False
    return bool(schema.field(top).type.get_field_index(inner) >= 0)


def _labels(column: Any, at: str, name: str) -> tuple[str, ...]:
    """Returns labels as text; "" for none or for -1."""
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    readable = (types.is_integer, types.is_string, types.is_large_string, types.is_null)
    values = column.to_pylist()
    if types.is_floating(kind) and all(value is None or value != value or value.is_integer() for value in values):
        # As pandas stores whole numbers if one of their column is missing.
        values = [None if value is None or value != value else int(value) for value in values]
    elif not any(is_such(kind) for is_such in readable):
        raise DataError(f"{at}: column {name} has {kind}, not a name or a number: set datasets.<name>.label_column")
    return tuple("" if value is None else str(value).strip() for value in values)


def _ids(column: Any, at: str, name: str) -> tuple[str, ...]:
    ids = []
    for row, value in enumerate(column.to_pylist()):
        if not isinstance(value, str | int) or value == "":
            raise DataError(f"{at}: row {row} has no id in column {name}: give another datasets.<name>.id_column")
        require_one_line(str(value), at)
        ids.append(str(value))
    return tuple(ids)
