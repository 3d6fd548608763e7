"""What the folder source finds, and each wrong input with its one line."""

import shutil
from pathlib import Path

import pytest
from listed import folder, refusal, rows_of
from pictures import write_tree

from workers.data.sources import open_listing
from workers.data.survey import survey
from workers.errors import DataError
from workers.settings import DatasetSettings


def classes_file(place: Path, text: str) -> str:
    (place / "some.txt").write_text(text)
    return str(place / "some.txt")


def test_survey_without_val_counts_what_is_held_out(plain_tree):
    found = survey(folder(plain_tree))
    assert found.classes == ("a", "b", "c")
    assert found.num_classes == 3
    assert found.counts == {"train": 48, "dev": 6, "val": 6, "test": 5}
    assert not found.declared


def test_survey_of_published_layout_reads_annotations_and_ignores_boxes(published_tree):
    found = survey(folder(published_tree))
    assert found.classes == ("n0", "n1", "n2")
    assert found.counts == {"train": 27, "dev": 3, "val": 6, "test": 4}
    assert survey(folder(published_tree, dev_fraction=0)).counts == {"train": 30, "dev": 0, "val": 6, "test": 4}


def test_rows_are_sorted_paths_below_the_split_and_val_s_labels_are_annotated(published_tree):
    splits = rows_of(folder(published_tree)).splits
    assert [row.name for row in splits["test"]] == [f"images/test_{index}.JPEG" for index in range(4)]
    assert splits["train"][0].name.startswith("n0/images/n0_")
    for rows in splits.values():
        assert [row.name for row in rows] == sorted(row.name for row in rows)
    assert {row.name: row.label for row in splits["val"]} == {f"images/val_{n}.JPEG": n % 3 for n in range(6)}


def test_classes_are_sorted_by_code_point_not_by_locale(tmp_path):
    names = ["b", "B", "a", "é", "Z", "10", "9"]
    write_tree(tmp_path, [f"train/{name}/{index}.png" for name in names for index in range(2)])
    assert survey(folder(tmp_path)).classes == ("10", "9", "B", "Z", "a", "b", "é")


def test_classes_file_keeps_its_classes_and_the_whole_flat_test_set(published_tree, tmp_path):
    found = survey(folder(published_tree, classes=classes_file(tmp_path, "n2 the third\n\nn0\n")))
    assert found.classes == ("n0", "n2")
    assert found.counts == {"train": 18, "dev": 2, "val": 4, "test": 4}
    (published_tree / "train/n1").rename(published_tree / "train/polar bear")
    (published_tree / "val").rename(tmp_path / "val")
    assert survey(folder(published_tree, classes=classes_file(tmp_path, "polar bear\n"))).classes == ("polar bear",)


def test_test_in_class_folders_is_labelled_and_a_flat_one_is_not(plain_tree):
    assert not open_listing(folder(plain_tree)).labelled_test
    assert {row.label for row in rows_of(folder(plain_tree)).splits["test"]} == {-1}
    shutil.rmtree(plain_tree / "test")
    write_tree(plain_tree, {"test/b/1.png": 5001, "test/c/2.png": 5002})
    rows = rows_of(folder(plain_tree)).splits["test"]
    assert [(row.name, row.label) for row in rows] == [("b/1.png", 1), ("c/2.png", 2)]


def test_hidden_files_and_annotations_are_no_images(plain_tree):
    before = survey(folder(plain_tree))
    write_tree(plain_tree, {"train/a/.DS_Store": b"x", "train/a/a_boxes.txt": b"x", "train/notes.md": b"x"})
    write_tree(plain_tree, {"test/.hidden.png": b"x", "test/sizes.csv": b"x", "train/.cache/x.png": b"x"})
    assert survey(folder(plain_tree)) == before


def test_root_that_is_missing_or_holds_no_classes_is_refused(tmp_path):
    assert "datasets.<name>.root" in refusal(DatasetSettings())
    assert str(tmp_path / "nowhere") in refusal(folder(tmp_path / "nowhere"))
    assert "no train/" in refusal(folder(tmp_path))
    (tmp_path / "train").mkdir()
    assert "no class folders" in refusal(folder(tmp_path))


@pytest.mark.parametrize("inside", ["", "images", ".ipynb_checkpoints"])
def test_empty_class_folder_is_named(plain_tree, inside):
    (plain_tree / "train" / "hollow" / inside).mkdir(parents=True)
    message = refusal(folder(plain_tree))
    assert str(plain_tree / "train" / "hollow") in message
    assert "empty" in message


@pytest.mark.parametrize(
    ("layout", "change", "words"),
    [
        ("plain", {"val/a/1.png": 1, "val/zebra/1.png": 2}, "class zebra is not in train/"),
        ("published", lambda root: shutil.rmtree(root / "train/n1"), "class n1 is not in train/"),
        (
            "plain",
            lambda root: shutil.rmtree(root / "test") or write_tree(root, ["test/zebra/1.png"]),
            "class zebra is not in train/",
        ),
        ("published", {"val/images/extra.JPEG": 7}, "extra.JPEG"),
        ("published", lambda root: (root / "val/images/val_3.JPEG").unlink(), "val_3.JPEG"),
        ("published", {"val/val_annotations.txt": b"val_0.JPEG\tn0\nval_1.JPEG\n"}, "entry 2 has no class"),
        ("plain", {"train/lost.png": 1}, "lost.png"),
        ("plain", {"train/a/more/1.png": 1}, "train/a/more"),
        ("plain", lambda root: (root / "val").mkdir(), "plain/val"),
        ("plain", lambda root: shutil.rmtree(root / "test") or (root / "test").mkdir(), "plain/test"),
        ("plain", {"test/two\nlines.png": 1}, "rename it"),
    ],
)
def test_wrong_files_are_named(layout, change, words, plain_tree, published_tree):
    root = plain_tree if layout == "plain" else published_tree
    if isinstance(change, dict):
        write_tree(root, change)
    else:
        change(root)
    assert words in refusal(folder(root))


def test_classes_file_that_is_wrong_is_refused(plain_tree):
    for text, words in (("a\nunicorn\n", "class unicorn"), ("\n", "names no class")):
        assert words in refusal(folder(plain_tree, classes=classes_file(plain_tree, text)))
    assert "gone.txt: no such file" in refusal(folder(plain_tree, classes=str(plain_tree / "gone.txt")))


@pytest.mark.parametrize(("num_val", "counts"), [(50, (900, 100, 50, 70)), (0, (810, 90, 100, 70))])
def test_absent_images_are_declared_if_allowed(tmp_path, num_val, counts):
    declared = {"declared_classes": 1000, "declared_train": 1000, "declared_val": num_val, "declared_test": 70}
    settings = folder(tmp_path / "nowhere", **declared)
    found = survey(settings, allow_absent=True)
    assert (found.declared, found.classes, found.num_classes) == (True, (), 1000)
    assert tuple(found.counts[split] for split in ("train", "dev", "val", "test")) == counts
    for other, allow in ((settings, False), (folder(tmp_path / "nowhere"), True)):
        with pytest.raises(DataError):
            survey(other, allow_absent=allow)
    write_tree(tmp_path / "nowhere", ["train/a/0.png", "train/a/1.png"])
    assert not survey(settings, allow_absent=True).declared
