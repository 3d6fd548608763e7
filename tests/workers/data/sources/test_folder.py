"""What the folder source finds, and each wrong input with its one line."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pictures import write_tree

from workers.data.sources.registry import open_listing, survey
from workers.errors import DataError
from workers.settings.dataset import DatasetSettings, Source


def folder(root: Path, **changes: object) -> DatasetSettings:
    return replace(DatasetSettings(root=str(root), size=8), **changes)


def refusal(settings: DatasetSettings) -> str:
    with pytest.raises(DataError) as caught:
        survey(settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_survey_without_val_counts_what_is_held_out(plain_tree: Path) -> None:
    found = survey(folder(plain_tree))
    assert found.classes == ("a", "b", "c")
    assert found.num_classes == 3
    assert found.counts == {"train": 48, "dev": 6, "val": 6, "test": 5}
    assert not found.declared


def test_survey_of_published_layout_reads_annotations_and_ignores_boxes(published_tree: Path) -> None:
    found = survey(folder(published_tree))
    assert found.classes == ("n0", "n1", "n2")
    assert found.counts == {"train": 27, "dev": 3, "val": 6, "test": 4}


def test_survey_without_dev_fraction_keeps_all_for_training(published_tree: Path) -> None:
    assert survey(folder(published_tree, dev_fraction=0)).counts == {"train": 30, "dev": 0, "val": 6, "test": 4}


def test_rows_are_paths_below_the_split_in_code_point_order(published_tree: Path) -> None:
    splits = open_listing(folder(published_tree)).rows(lambda _done, _total: None).splits
    assert [row.name for row in splits["test"]] == [f"images/test_{index}.JPEG" for index in range(4)]
    assert splits["train"][0].name.startswith("n0/images/n0_")
    for rows in splits.values():
        assert [row.name for row in rows] == sorted(row.name for row in rows)


def test_val_labels_follow_the_annotations(published_tree: Path) -> None:
    rows = open_listing(folder(published_tree)).rows(lambda _done, _total: None).splits["val"]
    assert {row.name: row.label for row in rows} == {f"images/val_{index}.JPEG": index % 3 for index in range(6)}


def test_classes_are_sorted_by_code_point_not_by_locale(tmp_path: Path) -> None:
    names = ["b", "B", "a", "é", "Z", "10", "9"]
    root = write_tree(tmp_path, {f"train/{name}/{index}.png": index for name in names for index in range(2)})
    assert survey(folder(root)).classes == ("10", "9", "B", "Z", "a", "b", "é")


def test_classes_file_keeps_its_classes_and_the_whole_flat_test_set(published_tree: Path, tmp_path: Path) -> None:
    listed = tmp_path / "some.txt"
    listed.write_text("n2 the third\n\nn0\n")
    found = survey(folder(published_tree, classes=str(listed)))
    assert found.classes == ("n0", "n2")
    assert found.counts == {"train": 18, "dev": 2, "val": 4, "test": 4}


def test_class_whose_name_has_a_space_can_be_listed(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path, {f"train/{name}/{index}.png": index for name in ("polar bear", "cat") for index in (0, 1)}
    )
    (root / "some.txt").write_text("polar bear\n")
    assert survey(folder(root, classes=str(root / "some.txt"))).classes == ("polar bear",)


def test_test_in_class_folders_is_labelled(plain_tree: Path) -> None:
    shutil.rmtree(plain_tree / "test")
    write_tree(plain_tree, {"test/b/1.png": 5001, "test/c/2.png": 5002})
    rows = open_listing(folder(plain_tree)).rows(lambda _done, _total: None).splits["test"]
    assert [(row.name, row.label) for row in rows] == [("b/1.png", 1), ("c/2.png", 2)]


def test_flat_test_is_unlabelled(plain_tree: Path) -> None:
    listing = open_listing(folder(plain_tree))
    assert not listing.labelled_test
    assert {row.label for row in listing.rows(lambda _done, _total: None).splits["test"]} == {-1}


def test_hidden_files_and_annotations_are_no_images(plain_tree: Path) -> None:
    before = survey(folder(plain_tree))
    write_tree(plain_tree, {"train/a/.DS_Store": b"x", "train/a/a_boxes.txt": b"x", "train/notes.md": b"x"})
    write_tree(plain_tree, {"test/.hidden.png": b"x", "test/sizes.csv": b"x", "train/.cache/x.png": b"x"})
    assert survey(folder(plain_tree)) == before


def test_root_not_given_is_refused() -> None:
    assert "datasets.<name>.root" in refusal(DatasetSettings())


def test_missing_root_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in refusal(folder(tmp_path / "nowhere"))


def test_root_without_train_is_named(tmp_path: Path) -> None:
    assert "no train/" in refusal(folder(tmp_path))


def test_train_without_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    assert "no class folders" in refusal(folder(tmp_path))


@pytest.mark.parametrize("inside", ["", "images", ".ipynb_checkpoints"])
def test_empty_class_folder_is_named(plain_tree: Path, inside: str) -> None:
    (plain_tree / "train" / "hollow" / inside).mkdir(parents=True)
    message = refusal(folder(plain_tree))
    assert str(plain_tree / "train" / "hollow") in message
    assert "empty" in message


def test_val_class_that_train_lacks_is_named(plain_tree: Path) -> None:
    write_tree(plain_tree, {"val/a/1.png": 1, "val/zebra/1.png": 2})
    assert "class zebra is not in train/" in refusal(folder(plain_tree))


def test_annotated_class_that_train_lacks_is_named(published_tree: Path) -> None:
    shutil.rmtree(published_tree / "train" / "n1")
    assert "class n1 is not in train/" in refusal(folder(published_tree))


def test_test_class_that_train_lacks_is_named(plain_tree: Path) -> None:
    shutil.rmtree(plain_tree / "test")
    write_tree(plain_tree, {"test/zebra/1.png": 1})
    assert "class zebra is not in train/" in refusal(folder(plain_tree))


def test_val_image_without_annotation_is_named(published_tree: Path) -> None:
    write_tree(published_tree, {"val/images/extra.JPEG": 7})
    assert "extra.JPEG" in refusal(folder(published_tree))


def test_annotated_image_that_is_absent_is_named(published_tree: Path) -> None:
    (published_tree / "val" / "images" / "val_3.JPEG").unlink()
    assert "val_3.JPEG" in refusal(folder(published_tree))


def test_annotation_without_a_class_is_refused(published_tree: Path) -> None:
    (published_tree / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn0\nval_1.JPEG\n")
    assert "entry 2 has no class" in refusal(folder(published_tree))


def test_listed_class_that_is_absent_is_named(plain_tree: Path) -> None:
    (plain_tree / "some.txt").write_text("a\nunicorn\n")
    assert "class unicorn" in refusal(folder(plain_tree, classes=str(plain_tree / "some.txt")))


def test_missing_or_empty_classes_file_is_refused(plain_tree: Path) -> None:
    assert "gone.txt: no such file" in refusal(folder(plain_tree, classes=str(plain_tree / "gone.txt")))
    (plain_tree / "none.txt").write_text("\n")
    assert "names no class" in refusal(folder(plain_tree, classes=str(plain_tree / "none.txt")))


def test_image_outside_any_class_is_named(plain_tree: Path) -> None:
    write_tree(plain_tree, {"train/lost.png": 1})
    assert "lost.png" in refusal(folder(plain_tree))


def test_folder_inside_a_class_is_named_rather_than_skipped(plain_tree: Path) -> None:
    write_tree(plain_tree, {"train/a/more/1.png": 1})
    assert str(plain_tree / "train" / "a" / "more") in refusal(folder(plain_tree))


@pytest.mark.parametrize("split", ["val", "test"])
def test_empty_split_folder_is_refused(plain_tree: Path, split: str) -> None:
    shutil.rmtree(plain_tree / split, ignore_errors=True)
    (plain_tree / split).mkdir()
    assert str(plain_tree / split) in refusal(folder(plain_tree))


def test_file_name_that_would_break_a_line_is_refused(plain_tree: Path) -> None:
    write_tree(plain_tree, {"test/two\nlines.png": 1})
    assert "rename it" in refusal(folder(plain_tree))


def test_absent_images_are_declared_only_when_allowed(tmp_path: Path) -> None:
    settings = folder(
        tmp_path / "nowhere", declared_classes=1000, declared_train=1000, declared_val=50, declared_test=70
    )
    found = survey(settings, allow_absent=True)
    assert found.declared
    assert found.classes == ()
    assert found.num_classes == 1000
    assert found.counts == {"train": 900, "dev": 100, "val": 50, "test": 70}
    with pytest.raises(DataError):
        survey(settings)


def test_absent_images_without_declared_counts_stay_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        survey(folder(tmp_path / "nowhere"), allow_absent=True)


def test_declared_counts_without_val_hold_out_from_train() -> None:
    settings = DatasetSettings(declared_classes=10, declared_train=1000, declared_test=7)
    assert survey(settings, allow_absent=True).counts == {"train": 810, "dev": 90, "val": 100, "test": 7}


def test_present_images_win_over_declared_counts(plain_tree: Path) -> None:
    assert not survey(folder(plain_tree, declared_classes=1000), allow_absent=True).declared


def test_digits_survey_needs_no_root() -> None:
    assert survey(DatasetSettings(source=Source.digits, size=8)).num_classes == 10
