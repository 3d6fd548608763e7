"""What the csv source makes of the files that competitions hand out, and each wrong input with its one line."""

from dataclasses import replace
from pathlib import Path

import pytest
from listed import labels_of, refusal, rows_of
from pictures import write_tree

from workers.data.sources import open_listing, survey
from workers.settings import DatasetSettings, OnBad, Source

Ids = tuple[str, ...]


def csv(root: Path, **changes: object) -> DatasetSettings:
    return replace(DatasetSettings(source=Source.csv, root=str(root), size=8), **changes)


def lines(*cells: str) -> bytes:
    return "".join(f"{line}\n" for line in cells).encode()


def images(folder: str, names: Ids, suffix: str = ".png", first: int = 0) -> dict[str, int]:
    return {f"{folder}/{name}{suffix}": first + index for index, name in enumerate(names)}


TEN = tuple(f"i{index}" for index in range(10))
EXPECTED = {f"{name}.png": "cat" if index % 2 else "dog" for index, name in enumerate(TEN)}


def kinds(template: str = "{name},{kind}") -> list[str]:
    return [template.format(name=name, kind=EXPECTED[f"{name}.png"]) for name in TEN]


@pytest.fixture
def dogs(tmp_path: Path) -> Path:
    """Ids without extension, labels.csv, train/ and test/, a sample with a column a class."""
    files = {**images("train", TEN), **images("test", ("x", "y"), first=100)}
    files["labels.csv"] = lines("id,breed", *kinds())
    files["sample_submission.csv"] = lines("id,cat,dog", "y,0.5,0.5", "x,0.5,0.5")
    return write_tree(tmp_path / "dogs", files)


def test_ids_without_extension_find_their_images_and_the_test_is_that_of_the_sample(dogs):
    listing = open_listing(csv(dogs))
    assert listing.classes == ("cat", "dog")
    assert not listing.labelled_test
    assert labels_of(csv(dogs)) == EXPECTED
    assert [row.name for row in rows_of(csv(dogs)).splits["test"]] == ["x.png", "y.png"]
    assert survey(csv(dogs)).counts == {"train": 6, "dev": 2, "val": 2, "test": 2}


def test_one_folder_of_images_serves_train_and_test(tmp_path):
    """Plant leaves: numbers for ids, and features beside them."""
    files = images("images", [str(index) for index in range(14)])
    files["train.csv"] = lines("id,species,margin1", *(f"{index},{'ab'[index % 2]},0.{index}" for index in range(10)))
    files["test.csv"] = lines("id,margin1", *(f"{index},0.1" for index in range(10, 14)))
    leaves = write_tree(tmp_path, files)
    rows = rows_of(csv(leaves))
    assert open_listing(csv(leaves)).classes == ("a", "b")
    assert [row.name for row in rows.splits["test"]] == ["10.png", "11.png", "12.png", "13.png"]
    assert len(labels_of(csv(leaves))) == 10
    # The folder is not train's own: what is test's is not told as left out of train.
    assert rows.left_out == ()


def test_ids_with_extension_numbers_as_labels_and_folders_named_for_images(tmp_path):
    labels = [str(index % 12) for index in range(36)]
    files = {f"train_images/{index}.png": index for index in range(36)}
    files["train.csv"] = lines("image_id,label", *(f"{index}.png,{label}" for index, label in enumerate(labels)))
    files |= images("test_images", ("q",), first=100)
    listing = open_listing(csv(write_tree(tmp_path, files)))
    # Not in code-point order, where 10 would come before 2.
    assert listing.classes == tuple(str(number) for number in range(12))
    assert listing.counts()["test"] == 1


def test_a_column_a_class_tells_the_class_marked_with_1(tmp_path):
    marked = [f"{name},{int(index % 2 == 0)},{int(index % 2 == 1)}" for index, name in enumerate(TEN)]
    files = {**images("images", TEN), "train.csv": lines("image_id,dog,cat", *marked)}
    files |= {"images/t.png": 100, "test.csv": lines("image_id", "t")}
    root = write_tree(tmp_path, files)
    assert labels_of(csv(root)) == EXPECTED
    (root / "train.csv").write_bytes(lines("image_id,dog,cat", *marked[1:], "i0,1,1"))
    assert "line 11: 2 classes are marked" in refusal(csv(root))


@pytest.mark.parametrize(
    ("header", "template"),
    [
        ("label,filename", "{kind},{name}.png"),
        ("Id;Category", "{name};{kind}"),
        ("\ufeffimage\tlabels", "{name}\t{kind}"),
        ("a,b", '"{name}"," {kind} "'),
    ],
)
def test_headers_and_separators_of_other_kinds_are_read(tmp_path, header, template):
    root = write_tree(tmp_path, {**images("train", TEN), "train.csv": lines(header, *kinds(template))})
    assert labels_of(csv(root)) == EXPECTED


def test_names_of_files_win_over_running_numbers_that_images_have_too(tmp_path):
    cells = [f"{number},{5 - number}.png,{'ab'[number % 2]}" for number in range(6)]
    write_tree(
        tmp_path,
        {**images("train", [str(number) for number in range(6)]), "train.csv": lines("id,filename,label", *cells)},
    )
    assert labels_of(csv(tmp_path)) == {f"{5 - number}.png": "ab"[number % 2] for number in range(6)}
    by_number = {f"{number}.png": "ab"[number % 2] for number in range(6)}
    assert labels_of(csv(tmp_path, id_column="id")) == by_number


def test_columns_and_files_can_be_named(tmp_path):
    files = {**images("jpg/a", TEN), "lists/all.csv": lines("id,label,x,y", *kinds("no,no,{name},{kind}"))}
    root = write_tree(tmp_path, files)
    settings = csv(root, train="lists/all.csv", images="jpg", id_column="x", label_column="y")
    # An id may leave out the folders above its file; the row's name has them.
    assert labels_of(settings) == {f"a/{name}": kind for name, kind in EXPECTED.items()}


def test_val_csv_may_name_images_of_trains_folder(tmp_path):
    files = {**images("train", TEN), "train.csv": lines("id,label", *kinds()[:7])}
    files["val.csv"] = lines("id,label", *kinds()[7:])
    settings = csv(write_tree(tmp_path, files))
    rows = rows_of(settings)
    assert [row.name for row in rows.splits["val"]] == ["i7.png", "i8.png", "i9.png"]
    assert rows.left_out == ()


def test_labels_of_test_make_it_labelled(dogs):
    (dogs / "test.csv").write_bytes(lines("id,breed", "x,cat", "y,dog"))
    listing = open_listing(csv(dogs))
    assert listing.labelled_test
    assert [(row.name, row.label) for row in rows_of(csv(dogs)).splits["test"]] == [("x.png", 0), ("y.png", 1)]
    (dogs / "test.csv").write_bytes(lines("id,breed", "x,", "y,"))
    assert not open_listing(csv(dogs)).labelled_test
    (dogs / "test.csv").write_bytes(lines("id,breed", "x,cat", "y,"))
    assert "line 3: no label of y" in refusal(csv(dogs))


def test_folder_can_be_named_as_the_test(dogs):
    (dogs / "sample_submission.csv").write_bytes(lines("id,value", "something else,0"))
    assert survey(csv(dogs, test="test")).counts["test"] == 2


def test_image_without_a_line_and_line_without_an_image_are_left_out_and_listed(dogs):
    (dogs / "train" / "i3.png").unlink()
    write_tree(dogs, {"train/extra.png": 70})
    skipping = csv(dogs, on_bad=OnBad.skip)
    assert {(each.split, each.path, each.reason) for each in rows_of(skipping).left_out} == {
        ("train", "i3", "line 5 of labels.csv names no image"),
        ("train", "train/extra.png", "no line in labels.csv"),
    }
    (dogs / "test" / "x.png").unlink()
    assert "no image x" in refusal(skipping)


WRONG = {
    "twice": (lines("id,breed", *kinds(), "i3,cat"), "line 12: names i3 like line 5"),
    "twice with and without extension": (lines("id,breed", *kinds(), "i3.png,cat"), "like line 5"),
    "no label": (lines("id,breed", *kinds(), "i3,"), "line 12: no label of i3"),
    "no id": (lines("id,breed", *kinds(), ",cat"), "line 12: no id"),
    "cells": (lines("id,breed", *kinds(), "i3,cat,1"), "line 12 has 3 cells"),
    "only a header": (b"id,breed\n", "no line below the header"),
    "empty": (b"", "empty file"),
    "no text": (b"\xff\xfe\x00\x01", "cannot be read as text"),
    "quotes": (b'id,breed\n"i1,cat\n', "line"),
    "which column": (lines("id,a,b", "i0,1.5,2", "i1,2,3"), "no known column of labels (columns: id, a, b)"),
    "climbs": (lines("id,breed", *kinds(), "../labels.csv,cat"), "no image ../labels.csv"),
}


@pytest.mark.parametrize(("content", "expected"), WRONG.values(), ids=WRONG)
def test_wrong_csv_is_refused_with_its_place(dogs, content, expected):
    (dogs / "labels.csv").write_bytes(content)
    assert expected in refusal(csv(dogs))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: (root / "labels.csv").unlink(), "none of train.csv, labels.csv"),
        (lambda root: write_tree(root, ["train/i3.jpg"]), "i3 may be train/i3.jpg or train/i3.png"),
        (
            lambda root: write_tree(root, {"val/v.png": 60, "val.csv": lines("id,breed", "v,zebra")}),
            "class zebra is not in",
        ),
        (lambda root: (root / "train/i3.png").unlink(), "line 5: no image i3"),
    ],
    ids=["no csv", "either", "zebra", "no image"],
)
def test_wrong_files_are_refused(dogs, change, expected):
    change(dogs)
    assert expected in refusal(csv(dogs))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"label_column": "race"}, "no column race (columns: id, breed): set datasets.<name>.label_column"),
        ({"id_column": "key"}, "no column key"),
        ({"images": "photos"}, "no such folder: correct datasets.<name>.images"),
        ({"train": "all.csv"}, "no such file: correct datasets.<name>.train"),
        ({"images": "/etc"}, "only files below the root"),
    ],
)
def test_wrong_setting_is_refused(dogs, changes, expected):
    assert expected in refusal(csv(dogs, **changes))


def test_image_that_moves_to_the_next_split_makes_another_dataset(tmp_path):
    """One class: the images of all splits, one after another, stay the same."""
    root = write_tree(tmp_path / "root", images("train_images", TEN))
    found = []
    for num_train in (8, 6):
        for name, ids in (("train.csv", TEN[:num_train]), ("val.csv", TEN[num_train:])):
            (root / name).write_bytes(lines("id,label", *(f"{each},only" for each in ids)))
        listing = open_listing(csv(root, val="val.csv"))
        assert listing.counts()["val"] == 10 - num_train
        found.append(listing.fingerprint())
    assert len(set(found)) == 2
