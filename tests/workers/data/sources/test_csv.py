"""What the csv source makes of the files that competitions hand out, and each wrong input with its one line."""

from dataclasses import replace
from pathlib import Path

import pytest
from listed import labels_of, refusal, rows_of
from pictures import write_tree

from workers.data.sources import open_listing
from workers.data.survey import survey
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
def dogs(tmp_path):
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
    assert "line 3: y has no label" in refusal(csv(dogs))


def test_folder_can_be_named_as_the_test(dogs):
    (dogs / "sample_submission.csv").write_bytes(lines("id,value", "something else,0"))
    assert survey(csv(dogs, test="test")).counts["test"] == 2


def test_image_without_a_line_and_line_without_an_image_are_left_out_and_listed(dogs):
    (dogs / "train" / "i3.png").unlink()
    write_tree(dogs, {"train/extra.png": 70})
    skipping = csv(dogs, on_bad=OnBad.skip)
    assert {(each.split, each.path, each.reason) for each in rows_of(skipping).left_out} == {
        ("train", "i3", "line 5 of labels.csv names no image"),
        ("every split", "train/extra.png", "no csv file has a line for it"),
    }
    (dogs / "test" / "x.png").unlink()
    assert "no image x" in refusal(skipping)


WRONG = {
    "twice": (lines("id,breed", *kinds(), "i3,cat"), "line 12: names i3 like line 5"),
    "twice with and without extension": (lines("id,breed", *kinds(), "i3.png,cat"), "like line 5"),
    "no label": (lines("id,breed", *kinds()[:9], "i9,"), "line 11: i9 has no label"),
    "no id": (lines("id,breed", *kinds(), ",cat"), "line 12: no id"),
    "cells": (lines("id,breed", *kinds(), "i3,cat,1"), "line 12 has 3 cells"),
    "only a header": (b"id,breed\n", "no line below the header"),
    "empty": (b"", "empty file"),
    "no text": (b"\x89\xfe\x00\x01", "cannot be read as text in UTF-8"),
    "half of a letter": (b"\xff\xfe\x00", "save it in UTF-8"),
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


def test_of_two_id_columns_the_one_whose_cells_name_images_is_taken(tmp_path):
    cells = [f"{number},{number + 100},{'ab'[number % 2]}" for number in range(6)]
    files = {**images("train", [str(number + 100) for number in range(6)])}
    root = write_tree(tmp_path, {**files, "train.csv": lines("id,image_id,label", *cells)})
    assert labels_of(csv(root)) == {f"{number + 100}.png": "ab"[number % 2] for number in range(6)}


@pytest.mark.parametrize("header", ["id,image_id,label", "id,picture,label"])
@pytest.mark.parametrize("gone", [(), ("0",), ("5",)], ids=["all", "one of these", "one of those"])
def test_two_columns_that_name_different_images_are_refused(tmp_path, header, gone):
    """Case by case: running numbers beside ids that are numbers, and an image or two that is gone."""
    suffix = ".png" if "picture" in header else ""
    cells = [f"{number},{(number + 1) % 6}{suffix},{'ab'[number % 2]}" for number in range(6)]
    files = images("train", [str(number) for number in range(6) if str(number) not in gone])
    root = write_tree(tmp_path, {**files, "train.csv": lines(header, *cells)})
    names = header.split(",")[:2]
    for on_bad in OnBad:
        assert f"both {names[0]} and {names[1]} name images, not the same ones (line " in refusal(
            csv(root, on_bad=on_bad)
        )
    skipping = csv(root, on_bad=OnBad.skip, id_column=names[1])
    assert labels_of(skipping) == {
        f"{(number + 1) % 6}.png": "ab"[number % 2] for number in range(6) if str((number + 1) % 6) not in gone
    }


def test_two_columns_of_labels_are_refused_unless_they_say_the_same(tmp_path):
    cells = [f"{number},{number % 2},{'ab'[number % 2]},{'xyz'[number % 3]}" for number in range(6)]
    files = images("train", [str(number) for number in range(6)])
    root = write_tree(tmp_path, {**files, "train.csv": lines("id,label,class,species", *cells)})
    assert "labels may be label or species: set datasets.<name>.label_column" in refusal(csv(root))
    assert set(labels_of(csv(root, label_column="class")).values()) == {"a", "b"}
    (root / "train.csv").write_bytes(lines("id,label,class,kind", *cells))
    assert set(labels_of(csv(root)).values()) == {"0", "1"}


@pytest.mark.parametrize(
    "template", ["{name}.png,{kind}", "{name},{kind}", "train/{name}.png,{kind}", "x{name},{kind}"]
)
def test_csv_without_a_header_is_refused(tmp_path, template):
    root = write_tree(tmp_path, {**images("train", TEN), "train.csv": lines(*kinds(template))})
    assert "looks like an image, not like a header: write a line id,label above it" in refusal(csv(root))


def test_numbers_as_pandas_writes_them_are_integers(tmp_path):
    plain = [f"{name},{index % 11}" for index, name in enumerate(f"i{number}" for number in range(22))]
    files = images("train", [f"i{number}" for number in range(22)])
    root = write_tree(tmp_path, {**files, "train.csv": lines("id,label", *plain)})
    before = labels_of(csv(root)), open_listing(csv(root)).classes
    (root / "train.csv").write_bytes(lines("id,label", *(f"{line}.0" for line in plain)))
    assert (labels_of(csv(root)), open_listing(csv(root)).classes) == before


@pytest.mark.parametrize("missing", ["", "nan", "NaN", "null", "NULL", "<NA>", "-1", "-1.0"])
def test_missing_label_stops_or_is_left_out_and_listed(tmp_path, missing):
    cells = [f"{name},{index % 2}.0" for index, name in enumerate(TEN)]
    files = {**images("train", TEN), "train.csv": lines("id,label", *cells[:9], f"i9,{missing}")}
    root = write_tree(tmp_path, files)
    assert "line 11: i9 has no label" in refusal(csv(root))
    rows = rows_of(csv(root, on_bad=OnBad.skip))
    assert [(each.path, each.reason) for each in rows.left_out] == [("train/i9.png", "no label")]
    assert sum(map(len, rows.splits.values())) == 9


def test_minus_one_and_one_are_two_classes_and_test_s_minus_ones_no_labels(tmp_path):
    files = {
        **images("train", TEN),
        "train.csv": lines("id,label", *(f"{each},{1 - 2 * (each > 'i4')}" for each in TEN)),
    }
    root = write_tree(tmp_path, {**files, **images("test", ("x", "y"), first=100)})
    assert open_listing(csv(root)).classes == ("-1", "1")
    (root / "train.csv").write_bytes(lines("id,label", *(f"{each},{int(each > 'i4')}" for each in TEN)))
    (root / "test.csv").write_bytes(lines("id,label", "x,-1", "y,-1"))
    assert not open_listing(csv(root)).labelled_test


def test_single_name_among_numbers_is_refused_and_a_class_of_them_is_not(tmp_path):
    cells = [f"{name},{index % 2}" for index, name in enumerate(TEN)]
    root = write_tree(tmp_path, {**images("train", TEN), "train.csv": lines("id,label", *cells[:9], "i9,cat")})
    assert "one image has the label cat, a name among numbers" in refusal(csv(root))
    (root / "train.csv").write_bytes(lines("id,label", *cells[:8], "i8,blank", "i9,blank"))
    assert open_listing(csv(root)).classes == ("0", "1", "blank")
    (root / "train.csv").write_bytes(lines("id,label", *cells[:8], "i8,none", "i9,NA"))
    assert "i8 has no label (none stands for none)" in refusal(csv(root))


@pytest.mark.parametrize("spelled", ["./{}.png", "train/{}.png", "train\\{}", "{}.png"])
def test_ids_may_be_paths_from_the_root_with_any_separator(tmp_path, spelled):
    table = lines("path,label", *(f"{spelled.format(name)},{index % 2}" for index, name in enumerate(TEN)))
    root = write_tree(tmp_path, {**images("train", TEN), "train.csv": table})
    assert labels_of(csv(root)) == {f"{name}.png": str(index % 2) for index, name in enumerate(TEN)}


def test_ids_and_labels_in_another_unicode_form_than_the_files_are_found(tmp_path):
    nfc, nfd = "é", "e\u0301"
    files = images("train", [f"{nfd}{index}" for index in range(6)])
    cells = [f"{nfc}{index},{nfc if index % 2 else 'b'}" for index in range(6)]
    root = write_tree(tmp_path, {**files, "train.csv": lines("id,label", *cells)})
    assert len(labels_of(csv(root))) == 6
    (root / "train.csv").write_bytes(lines("id,label", *cells[:5], f"{nfc}5,{nfd}"))
    assert "look the same, and differ only in Unicode form" in refusal(csv(root))


def test_kaggle_s_train_labels_and_folders_in_other_letter_case_are_found(tmp_path):
    files = {**images("train", TEN), **images("Test", ("x", "y"), first=100)}
    root = write_tree(tmp_path, {**files, "trainLabels.csv": lines("image,level", *kinds())})
    assert labels_of(csv(root)) == EXPECTED
    assert survey(csv(root)).counts["test"] == 2


def test_two_files_for_a_split_are_refused_unless_one_is_named(dogs):
    write_tree(dogs, {**images("val", ("v", "w"), first=60), "val.csv": lines("id,breed", "v,cat", "w,dog")})
    (dogs / "Validation.csv").write_bytes(lines("id,breed", "v,cat"))
    message = refusal(csv(dogs))
    assert "Validation.csv" in message and "val.csv both mean val: set datasets.<name>.val" in message
    assert survey(csv(dogs, val="val.csv")).counts["val"] == 2


def test_roboflow_s_table_in_each_split_s_folder_is_read(tmp_path):
    files: dict[str, int | bytes] = {"README.dataset.txt": b"x"}
    for place, split in enumerate(("train", "valid", "test")):
        names = [f"{name}_jpg.rf.{place}" for name in TEN]
        files |= images(split, names, ".jpg", 100 * place)
        marked = [f"{name}.jpg, {int(index % 2 == 0)}, {int(index % 2)}" for index, name in enumerate(names)]
        files[f"{split}/_classes.csv"] = lines("filename, dog, cat", *marked)
    root = write_tree(tmp_path, files)
    listing = open_listing(csv(root))
    assert listing.classes == ("cat", "dog") and listing.labelled_test
    assert listing.counts() == {"train": 8, "dev": 2, "val": 10, "test": 10}
    (row, *_) = rows_of(csv(root)).splits["test"]
    assert (row.name, row.label) == ("i0_jpg.rf.2.jpg", 1)


def test_line_without_a_mark_has_no_label(tmp_path):
    """Columns of 1.0 and 0.0, as in the challenges on skin lesions."""
    marked = [f"{name},{float(index % 2 == 0)},{float(index % 2)}" for index, name in enumerate(TEN)]
    files = {**images("images", TEN), "train.csv": lines("image,MEL,NV", *marked[:9], "i9,0.0,0.0")}
    root = write_tree(tmp_path, files)
    assert "line 11: i9 has no label" in refusal(csv(root))
    assert set(labels_of(csv(root, on_bad=OnBad.skip)).values()) == {"MEL", "NV"}


def test_folder_of_val_without_a_csv_file_is_listed_as_left_out(dogs):
    write_tree(dogs, images("val", ("v",), first=60))
    assert [(each.split, each.path) for each in rows_of(csv(dogs)).left_out] == [("every split", "val/v.png")]
