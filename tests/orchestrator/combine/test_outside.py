"""Files of other tools: one row of probabilities for each image, by id or by row, or refused in one line."""

import csv
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.combine.outside import check_outside, store_outside
from orchestrator.combine.predictions import open_predictions
from orchestrator.plan.model import OutsideFile, Plan
from orchestrator.run.data import RunData, SplitData
from orchestrator.run.digests import Book
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import Committed
from workers.errors import DataError
from workers.storage.atomic import sha256_of

ROWS = ("cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png", "dog/05.png")
CLASSES = ("cat", "dog", "eel")
VALUES = np.array([[0.5, 0.25, 0.25], [0.7, 0.2, 0.1], [0, 1, 0], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]])


@pytest.fixture
def read(tmp_path):
    """Checks and stores a file as the member `other`; returns what is opened again, and the notes."""

    def read(path, rows=ROWS):
        split = SplitData("test", rows, "r" * 64, None, np.full((len(rows), 2), 8, np.int32), ())
        data, paths = RunData("d" * 64, CLASSES, {"test": split}), RunPaths(tmp_path / "run")
        files = {"other": {"test": OutsideFile(str(path), sha256_of(path))}}
        plan, notes, kept = Plan("e", "h", ("other",), {}, (), (), outside=files), [], [Committed()]
        book = Book(lambda: kept[-1], kept.append)
        check_outside(paths, plan, data, book, notes.append)
        assert not paths.root.exists()
        store_outside(paths, plan, data, book)
        folders = {"other": paths.predictions("other")}
        (opened,) = open_predictions(folders, split, 3, "d" * 64, {"other": files["other"]["test"]}, kept[-1])
        path.unlink()
        # Stored, so nothing is read again.
        check_outside(paths, plan, data, book, notes.append)
        return opened[:], notes

    return read


def table(path, lines, header=("id", *CLASSES)):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def lines_of(values=VALUES, ids=ROWS):
    return [[one, *row] for one, row in zip(ids, values.tolist(), strict=True)]


def short(spelling):
    return [row.split("/")[1].split(".")[0] if spelling == "stem" else row.split("/")[1] for row in ROWS]


@pytest.mark.parametrize("ids", [ROWS, short("stem"), short("name")], ids=["paths", "stems", "names"])
def test_csv_in_any_order_is_stored_in_the_order_of_rows_and_classes(tmp_path, read, ids):
    lines = [[one, *row[::-1]] for one, *row in lines_of(ids=ids)][::-1]
    stored, notes = read(table(tmp_path / "p.csv", lines, ("id", "eel", "dog", "cat")))
    np.testing.assert_array_equal(stored, VALUES.astype(np.float32))
    (note,) = notes
    assert "ensemble.members.other.predictions.test=" in note
    assert "mapped by name" in note


def test_parquet_with_ids_in_another_column_is_stored(tmp_path, read):
    columns = {name: VALUES[:, place].astype(np.float32) for place, name in enumerate(CLASSES)}
    pq.write_table(pa.table({**columns, "id": list(ROWS)}), tmp_path / "p.parquet")
    stored, notes = read(tmp_path / "p.parquet")
    np.testing.assert_array_equal(stored, VALUES.astype(np.float32))
    assert not notes


def test_parquet_with_columns_of_no_numbers_is_refused_in_one_line(tmp_path, read):
    for column in ([["a"]] * 5, ["much"] * 5):
        columns = {"id": list(ROWS), "cat": column, "dog": [0.0] * 5, "eel": [1.0] * 5}
        pq.write_table(pa.table(columns), tmp_path / "p.parquet")
        with pytest.raises(DataError, match="correct the file") as error:
            read(tmp_path / "p.parquet")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_with_another_delimiter_and_first_column_of_ids_is_stored(tmp_path, read, delimiter):
    text = table(tmp_path / "p.csv", lines_of(), ("image", *CLASSES)).read_text().replace(",", delimiter)
    (tmp_path / "p.csv").write_text("\ufeff" + text)
    np.testing.assert_array_equal(read(tmp_path / "p.csv")[0], VALUES.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_any_floats_is_stored_by_rows(tmp_path, read, dtype, order):
    np.save(tmp_path / "p.npy", np.array(VALUES, dtype, order=order))
    np.testing.assert_array_equal(read(tmp_path / "p.npy")[0], VALUES.astype(dtype).astype(np.float32))


def spoilt(row, *values):
    given = VALUES.copy()
    given[row] = values
    return given


@pytest.mark.parametrize(
    ("lines", "header", "why"),
    [
        (lines_of()[1:], CLASSES, "has no row of cat/1.png"),
        ([*lines_of(), lines_of()[2]], CLASSES, "has two rows of dog/3.png"),
        ([*lines_of(), ["x.png", 1, 0, 0]], CLASSES, "has ids that are no image of this split x.png"),
        (lines_of(spoilt(1, 0.5, 0.2, 0.2)), CLASSES, "the row of cat/2.png sums to 0.9, not 1"),
        (lines_of(spoilt(3, 1.1, -0.1, 0)), CLASSES, "the row of dog/4.png has a value that is negative"),
        (lines_of(spoilt(3, 1, np.nan, 0)), CLASSES, "the row of dog/4.png has a value that is negative or not finite"),
        (lines_of(spoilt(0, np.inf, 0, 0)), CLASSES, "the row of cat/1.png has a value that is negative or not finite"),
        ([line[:3] for line in lines_of()], CLASSES[:2], "has no column of the classes eel"),
        (lines_of(), ("cat", "dog", "fox"), "no column of the classes eel, has columns that are no class fox"),
        (lines_of(), ("cat", "dog", "dog"), "has two columns dog"),
        ([[*line[:3], "much"] for line in lines_of()], CLASSES, "much"),
        ([lines_of()[0][:2]], CLASSES, "Expected 4 columns"),
    ],
)
def test_csv_that_is_not_one_row_an_image_is_refused_in_one_line(tmp_path, read, lines, header, why):
    with pytest.raises(DataError, match=re.escape(why)) as error:
        read(table(tmp_path / "p.csv", lines, ("id", *header)))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"ensemble.members.other.predictions.test={tmp_path / 'p.csv'}: ")


def test_ids_without_folders_that_name_two_images_are_refused(tmp_path, read):
    rows = ("cat/1.png", "dog/1.png", *ROWS[2:])
    with pytest.raises(DataError, match=r"name several images \(write paths\) 1.png"):
        read(table(tmp_path / "p.csv", lines_of(ids=[row.split("/")[1] for row in rows])), rows)
    np.testing.assert_array_equal(read(table(tmp_path / "p.csv", lines_of(ids=rows)), rows)[0], VALUES.astype("f4"))


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (VALUES[1:], r"holds float64 \(4, 3\), not floats \(5, 3\)"),
        (VALUES.T, r"holds float64 \(3, 5\)"),
        (VALUES.argmax(axis=1), r"holds int64 \(5,\)"),
        ((VALUES > 0.5).astype(int), r"holds int64 \(5, 3\), not floats"),
        (spoilt(2, 0, np.nan, 0), "the row of dog/3.png has a value that is negative or not finite"),
        (VALUES * 100, "the row of cat/1.png sums to 100, not 1"),
        (np.array([None]), "Python objects"),
    ],
)
def test_npy_of_another_shape_or_kind_is_refused(tmp_path, read, array, why):
    np.save(tmp_path / "p.npy", array)
    with pytest.raises(DataError, match=why):
        read(tmp_path / "p.npy")


@pytest.mark.parametrize("name", ["p.csv", "p.npy", "p.parquet"])
@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"id\n"])
def test_files_of_something_else_are_refused_in_one_line(tmp_path, read, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"correct the file, or leave it out") as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)
