"""What the parquet source finds, how often it reads a row group, and each wrong input with its one line."""

import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from image_forms import IMAGE, Image, as_parquet, write_parquet
from listed import labels_of, refusal, rows_of, store_of
from pictures import encoded, noise
from pyarrow import parquet

from workers.data.sources import open_listing
from workers.data.sources.files import FileListing
from workers.data.sources.listing import unwatched
from workers.data.sources.parquet_rows import RowGroups, RowImages, Table, read_footer
from workers.data.sources.tree import LocalTree
from workers.data.store import prepare
from workers.data.survey import survey
from workers.errors import DataError
from workers.settings import DatasetSettings, OnBad, Source


def rows(root: Path, **changes: object) -> DatasetSettings:
    return replace(DatasetSettings(source=Source.parquet, root=str(root), size=8), **changes)


@pytest.fixture
def root(small_folder, tmp_path):
    return as_parquet(small_folder, tmp_path / "root")


@pytest.fixture
def pictures():
    return [encoded(noise(index)) for index in range(6)]


def write(root: Path, columns: dict[str, object] | pa.Table, name: str = "train-0.parquet") -> Path:
    parquet.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), root / name)
    return root


def test_hugging_face_layout_is_read_with_the_names_of_its_schema(root):
    listing = open_listing(rows(root))
    assert listing.classes == ("a", "b", "c")
    assert listing.counts() == {"train": 21, "dev": 3, "val": 6, "test": 5}
    assert not listing.labelled_test
    # File and row, so that the order is that of the file.
    test = rows_of(rows(root)).splits["test"]
    assert test[0].name == "test-00000-of-00002/0000000"
    assert [row.path for row in test] == sorted(row.path for row in test)


def test_files_whose_schemas_do_not_agree_on_names_are_refused(tmp_path, pictures):
    for name, order in (("train-0.parquet", ["cat", "dog"]), ("validation-0.parquet", ["dog", "cat"])):
        features = {"label": {"_type": "ClassLabel", "names": order}}
        table = pa.table({"image": pictures, "label": [0, 1] * 3})
        told = {"huggingface": json.dumps({"info": {"features": features}})}
        parquet.write_table(table.replace_schema_metadata(told), tmp_path / name)
    assert "names other classes than that of train-0.parquet" in refusal(rows(tmp_path))
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    assert survey(rows(tmp_path, class_names=str(tmp_path / "names.txt"))).classes == ("cat", "dog")
    (tmp_path / "validation-0.parquet").unlink()
    write_parquet(
        tmp_path / "train-0.parquet",
        [Image("0", "zebra", pictures[0]), Image("1", "ant", pictures[1])],
        ["zebra", "ant"],
    )
    assert open_listing(rows(tmp_path)).classes == ("zebra", "ant")


def test_plain_bytes_and_names_as_labels_are_read(tmp_path, pictures):
    write(tmp_path, {"img": pictures, "label": ["cat", "dog"] * 3, "key": list(range(6))})
    assert labels_of(rows(tmp_path, id_column="key")) == {str(index): ("cat", "dog")[index % 2] for index in range(6)}


def test_dictionaries_and_numbers_without_names_are_read(tmp_path, pictures):
    write(tmp_path, {"image": pictures, "label": pa.array(["x", "y"] * 3).dictionary_encode()})
    assert open_listing(rows(tmp_path)).classes == ("x", "y")
    write(tmp_path, {"image": pictures, "label": [10, 9, 10, 9, 10, 9]})
    assert open_listing(rows(tmp_path)).classes == ("9", "10")
    (tmp_path / "names.txt").write_text("".join(f"name {index}\n" for index in range(11)))
    settings = rows(tmp_path, class_names=str(tmp_path / "names.txt"))
    assert "no image of class name 0" in refusal(settings)
    (tmp_path / "kept.txt").write_text("name 10\nname 9\n")
    assert open_listing(replace(settings, classes=str(tmp_path / "kept.txt"))).classes == ("name 9", "name 10")


def test_columns_can_be_named(tmp_path, pictures):
    columns = {"thumbnail": [b"x"] * 6, "photo": pictures, "kind": ["a", "b"] * 3, "label": ["no"] * 6}
    write(tmp_path, columns, "all.parquet")
    settings = rows(tmp_path, train="all.parquet", image_column="photo", label_column="kind")
    assert open_listing(settings).classes == ("a", "b")
    assert store_of(settings, tmp_path / "stores").counts["train"] == 2


@pytest.mark.parametrize("column", [IMAGE, pa.binary()])
def test_image_without_bytes_is_a_bad_image(tmp_path, pictures, column):
    contents = [*pictures[:4], None, b""]
    images = contents if column == pa.binary() else [{"bytes": each, "path": "x.png"} for each in contents]
    write(tmp_path, {"image": pa.array(images, column), "label": ["a"] * 6})
    with pytest.raises(DataError, match=r"2 of its images cannot be read: .*no bytes in its row.*empty file"):
        prepare(rows(tmp_path), tmp_path / "stores")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"label": ["a"] * 6}, "no column of images (columns: label)"),
        ({"image": ["path.png"] * 6, "label": ["a"] * 6}, "column image has string, not the bytes of images"),
        ({"image": [b"x"] * 6}, "no known column of labels (columns: image)"),
        ({"image": [b"x"] * 6, "label": [1.5] * 6}, "column label has double"),
        ({"image": [b"x"] * 6, "label": [["a", "b"]] * 6}, "column label has list"),
        ({"image": [b"x"] * 6, "label": ["two\nlines"] * 6}, "does not fit on one line"),
        ({"image": [b"x"] * 6, "label": [None] * 6}, "row 0 has no label"),
        ({"image": [b"x"] * 6, "label": [0, 1, 0, 1, 0, -1]}, "row 5 has no label"),
        (pa.table([pa.array([b"x"]), pa.array([0]), pa.array([1])], ["image", "label", "label"]), "two columns are"),
    ],
)
def test_wrong_columns_are_refused(tmp_path, columns, expected):
    write(tmp_path, columns)
    assert expected in refusal(rows(tmp_path))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"label_column": "kind"}, "no column kind (columns: image, label)"),
        ({"id_column": "image.name"}, "no column image.name"),
        ({"image_column": "photo"}, "no column photo"),
        ({"id_column": "label"}, "two images have the name"),
        ({"train": "other/*.parquet"}, "correct datasets.<name>.train"),
    ],
)
def test_wrong_setting_is_refused(root, changes, expected):
    (root / "other").mkdir()
    assert expected in refusal(rows(root, **changes))


@pytest.mark.parametrize("cut", [0, 4, 100, -1, -200])
def test_damaged_file_is_refused(root, cut):
    path = root / "data" / "train-00000-of-00002.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    assert str(path) in refusal(rows(root))
    # A damaged footer is not blamed on the network.
    path.write_bytes(whole[:-200] + b"\xff" * 192 + whole[-8:])
    assert f"{path}: not a parquet file, or damaged" in refusal(rows(root))


def test_damage_among_the_images_is_told_when_they_are_read(root, tmp_path):
    path = root / "data" / "train-00000-of-00002.parquet"
    content = bytearray(path.read_bytes())
    content[10:4000] = b"\xff" * 3990
    path.write_bytes(content)
    with pytest.raises(DataError, match="train-00000-of-00002"):
        prepare(rows(root), tmp_path / "stores")


@pytest.fixture
def groups(tmp_path):
    """Twelve row groups of four rows, each image of 1000 bytes."""
    images = [Image(f"{index}", "a", bytes([index]) * 1000) for index in range(48)]
    path = write_parquet(tmp_path / "x.parquet", images, ["a"], rows_a_group=4)
    tree = LocalTree(tmp_path)
    table = Table(path.name, read_footer(tree, path.name), "image.bytes")
    return RowImages(tree, {path.name: table}, RowGroups(tree))


def test_each_row_group_is_read_once_for_all_its_rows(groups):
    with ThreadPoolExecutor(4) as pool:
        contents = list(pool.map(groups.read, [f"x.parquet/{row:07d}" for row in range(48)]))
    assert contents == [bytes([index]) * 1000 for index in range(48)]
    assert groups.groups.num_read == 12


def test_row_groups_that_are_not_asked_for_any_more_are_forgotten(groups):
    small = RowImages(groups.tree, groups.tables, RowGroups(groups.tree, kept_bytes=9000))
    for row in (0, 4, 1, 8, 2):
        small.read(f"x.parquet/{row:07d}")
    # Two fit; the first was asked for between the others, and stayed.
    assert small.groups.num_read == 3
    small.read("x.parquet/0000004")
    assert small.groups.num_read == 4


def test_error_of_a_row_group_reaches_all_who_wait_and_is_not_kept(groups, tmp_path):
    content = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").unlink()
    start = threading.Barrier(3)

    def read():
        start.wait()
        with pytest.raises(DataError) as caught:
            groups.read("x.parquet/0000000")
        return str(caught.value)

    with ThreadPoolExecutor(3) as pool:
        said = [future.result() for future in [pool.submit(read) for _ in range(3)]]
    assert all("x.parquet" in each for each in said)
    (tmp_path / "x.parquet").write_bytes(content)
    assert groups.read("x.parquet/0000000") == bytes(1000)


def test_listing_can_be_sent_to_another_process(root):
    listing = open_listing(rows(root))
    assert isinstance(listing, FileListing)
    first = listing.rows(unwatched).splits["test"][0]
    copied = pickle.loads(pickle.dumps(listing))  # noqa: S301
    assert copied.contents.read(first.path) == listing.contents.read(first.path)
    assert copied.fingerprint() == listing.fingerprint()


def test_missing_label_stops_or_is_left_out_and_listed(tmp_path, pictures):
    for labels in (
        ["cat", "dog", "cat", None, "dog", "cat"],
        ["0", "1", "0", None, "1", "0"],
        ["a", "b", "a", "nan"] + ["b"] * 2,
    ):
        write(tmp_path, {"image": pictures, "label": labels})
        told = " (nan stands for none)" if "nan" in labels else ""
        line = f"row 3 has no label{told}: write it, or remove the row, or set datasets.<name>.on_bad=skip"
        assert line in refusal(rows(tmp_path))
        listed = rows_of(rows(tmp_path, on_bad=OnBad.skip))
        assert [(each.split, each.path, each.reason) for each in listed.left_out] == [
            ("train", "train-0.parquet/0000003", "no label")
        ]
        assert sum(map(len, listed.splits.values())) == 5


def test_whole_numbers_stored_as_floats_are_integers_and_nan_is_no_label(tmp_path, pictures):
    write(tmp_path, {"image": pictures, "label": [10.0, 9.0, 10.0, 9.0, 10.0, float("nan")]})
    assert "row 5 has no label" in refusal(rows(tmp_path))
    assert open_listing(rows(tmp_path, on_bad=OnBad.skip)).classes == ("9", "10")


def test_name_among_numbers_is_told_as_what_it_is(tmp_path, pictures):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    write(tmp_path, {"image": pictures, "label": ["0", "1", "0", "dog", "1", "0"]})
    named = rows(tmp_path, class_names=str(tmp_path / "names.txt"))
    assert "row 3: label dog is none of the 2 classes, 0…1" in refusal(named)
    assert "one image has the label dog, a name among numbers" in refusal(rows(tmp_path))
    write(tmp_path, {"image": pictures, "label": ["cat", "dog", "cat", "7", "dog", "cat"]})
    assert "row 3: label 7 is none of the 2 classes by name" in refusal(named)
