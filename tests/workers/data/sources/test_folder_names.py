"""Folders as people name and unpack them: other words for splits, no train/, a folder too deep, what systems add."""

import unicodedata

import pytest
from listed import folder, refusal, rows_of
from pictures import write_tree

from workers.data.sources import open_listing
from workers.data.survey import survey
from workers.settings import OnBad, Source

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def classes(parent: str, count: int = 4, first: int = 0, names: tuple[str, ...] = ("cat", "dog")) -> dict[str, int]:
    """Images of each class in a folder of its own below `parent`."""
    above = f"{parent}/" if parent else ""
    return {
        f"{above}{name}/{index}.png": first + 100 * place + index
        for place, name in enumerate(names)
        for index in range(count)
    }


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "valid", "test"), ("Training", "Validation", "Testing"), ("TRAIN", "Val", "Test")],
)
def test_words_for_splits_are_understood_in_any_case_with_the_same_names_of_rows(tmp_path, train, val, test):
    files = classes(train) | classes(val, 2, 1000) | classes(test, 3, 2000)
    root = write_tree(tmp_path, files | {"README.roboflow.txt": b"x"})
    assert survey(folder(root)).counts == {"train": 6, "dev": 2, "val": 4, "test": 6}
    rows = rows_of(folder(root)).splits
    assert [row.name for row in rows["val"]] == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert rows["val"][0].path == f"{val}/cat/0.png"


def test_two_folders_that_mean_the_same_are_refused_unless_one_is_empty(tmp_path):
    root = write_tree(tmp_path, classes("train") | classes("val", 2, 1000) | classes("valid", 2, 2000))
    message = refusal(folder(root))
    assert f"{root / 'val'} and {root / 'valid'} both mean val" in message
    for image in (root / "valid").rglob("*.png"):
        image.unlink()
    for each in ("cat", "dog"):
        (root / "valid" / each).rmdir()
    assert survey(folder(root)).counts["val"] == 4


def test_folder_of_images_beside_train_is_refused_or_left_out_and_counted(tmp_path):
    root = write_tree(tmp_path, classes("train") | classes("dev", 3, 1000) | {"sample.png": 5000})
    message = refusal(folder(root))
    assert f"{root / 'dev'}: holds images (0.png), but is not named like a split" in message
    left_out = rows_of(folder(root, on_bad=OnBad.skip)).left_out
    assert {(each.path, each.reason) for each in left_out} == {
        ("dev/", "holds 6 images, in no split"),
        ("sample.png", "in no split and no class"),
    }


def test_empty_hidden_and_system_folders_are_skipped_wherever_they_are(tmp_path):
    files = classes("train") | {"__MACOSX/train/cat/._0.png": b"x", "train/__MACOSX/._cat": b"x", "code/run.py": b"x"}
    files |= {"train/cat/.DS_Store": b"x", "train/dog/Thumbs.db": b"x", "train/dog/._0.png": b"x", ".git/x.png": b"x"}
    root = write_tree(tmp_path, files)
    (root / "empty").mkdir()
    assert survey(folder(root)).counts == {"train": 4, "dev": 2, "val": 2, "test": 0}
    assert rows_of(folder(root)).left_out == ()


def test_class_folders_without_train_are_train_with_the_rows_that_train_would_have(tmp_path):
    flat = write_tree(tmp_path / "flat", classes("") | {"LICENSE.txt": b"x", "__MACOSX/._cat": b"x"})
    usual = write_tree(tmp_path / "usual", classes("train"))
    named = [{(row.name, row.label) for row in rows_of(folder(root)).splits["train"]} for root in (flat, usual)]
    assert named[0] == named[1] != set()
    write_tree(flat, {"lost.png": 1})
    assert [each.path for each in rows_of(folder(flat)).left_out] == ["lost.png"]


@pytest.mark.parametrize("inside", ["", "data/"])
@pytest.mark.parametrize("splits", [classes("flowers/train"), classes("flowers")], ids=["train", "classes"])
def test_folder_too_deep_is_answered_with_the_folder_that_was_found(tmp_path, inside, splits):
    root = write_tree(tmp_path, {f"{inside}{path}": seed for path, seed in splits.items()})
    assert f"set datasets.<name>.root={root}/{inside}flowers" in refusal(folder(root))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (classes("", names=("cat", "dog", "test")), "test may be a split or a class"),
        (classes("", names=("training_set", "test_set")), "test_set, training_set may be"),
        (classes("", names=("images", "masks")), "images, masks may be"),
        ({"images/0.png": 0, "trainLabels.csv": b"x"}, "but trainLabels.csv: set datasets.<name>.source=csv"),
        ({"images/0.png": 0, "train-00.parquet": b"x"}, "set datasets.<name>.source=parquet"),
        ({"0.png": 0}, "no train/ inside: put images in"),
    ],
)
def test_folders_that_may_be_no_classes_are_not_trained_on(tmp_path, files, words):
    assert words in refusal(folder(write_tree(tmp_path, files)))


def test_class_that_is_named_like_a_split_is_a_class_inside_train(tmp_path):
    root = write_tree(tmp_path, classes("train", names=("dev", "test", "val")))
    assert survey(folder(root)).classes == ("dev", "test", "val")


def test_classes_that_differ_in_unicode_form_only_are_one_between_splits_and_refused_in_train(tmp_path):
    files = classes("train", names=(NFD, "tea")) | classes("val", 2, 1000, names=(NFC, "tea"))
    root = write_tree(tmp_path / "root", files)
    (tmp_path / "kept.txt").write_text(f"tea\n{NFC}\n")
    for settings in (folder(root), folder(root, classes=str(tmp_path / "kept.txt"))):
        assert open_listing(settings).classes == (NFD, "tea")
        assert [row.label for row in rows_of(settings).splits["val"]] == [0, 0, 1, 1]
    write_tree(root, classes("train", names=(NFC,), first=3000))
    assert "classes 'cafe\\u0301' and 'caf\\xe9' look the same" in refusal(folder(root))


def test_tiny_imagenet_s_val_may_be_sorted_into_class_folders_by_a_script(published_tree):
    before = {row.name.rpartition("/")[2]: row.label for row in rows_of(folder(published_tree)).splits["val"]}
    val = published_tree / "val"
    for index in range(6):
        (val / f"n{index % 3}" / "images").mkdir(parents=True, exist_ok=True)
        (val / "images" / f"val_{index}.JPEG").rename(val / f"n{index % 3}" / "images" / f"val_{index}.JPEG")
        if index == 5:
            (val / "images").rmdir()
        rows = rows_of(folder(published_tree)).splits["val"]
        assert {row.name.rpartition("/")[2]: row.label for row in rows} == before
    (val / "n0/images/val_0.JPEG").rename(val / "n1/images/val_0.JPEG")
    assert "val_0.JPEG: val/val_annotations.txt has it in another class, n0" in refusal(folder(published_tree))


KAGGLE = "ILSVRC/Data/CLS-LOC"


@pytest.fixture
def kaggle(tmp_path):
    """The layout of Kaggle's copy of ILSVRC, with two of its three classes as in its list."""
    names = ("n02", "n01", "n03")
    files: dict[str, int | bytes] = dict(classes(f"{KAGGLE}/train", names=names))
    files |= {f"{KAGGLE}/val/ILSVRC2012_val_{number:08d}.JPEG": 1000 + number for number in range(1, 7)}
    files |= {f"{KAGGLE}/test/ILSVRC2012_test_{number:08d}.JPEG": 2000 + number for number in range(1, 4)}
    lines = [f"ILSVRC2012_val_{n:08d},{names[n % 3]} 1 2 30 40 {names[n % 3]} 5 6 70 80 " for n in range(6, 0, -1)]
    files["LOC_val_solution.csv"] = "\n".join(["ImageId,PredictionString", *lines]).encode()
    files["LOC_synset_mapping.txt"] = b"n03 a thing, things\nn01 another\nn02 third\n"
    files |= {"LOC_sample_submission.csv": b"x", "ILSVRC/ImageSets/CLS-LOC/val.txt": b"x"}
    return write_tree(tmp_path, files)


@pytest.mark.parametrize("source", [Source.folder, Source.ilsvrc])
def test_kaggle_s_ilsvrc_is_read_as_it_is_unpacked(kaggle, source):
    settings = folder(kaggle, source=source)
    assert survey(settings).counts == {"train": 9, "dev": 3, "val": 6, "test": 3}
    assert open_listing(settings).classes == ("n03", "n01", "n02")
    rows = rows_of(settings).splits
    assert {row.name: row.label for row in rows["val"]} == {
        f"ILSVRC2012_val_{n:08d}.JPEG": (2, 1, 0)[n % 3] for n in range(1, 7)
    }
    assert [row.name for row in rows["test"]] == [f"ILSVRC2012_test_{n:08d}.JPEG" for n in range(1, 4)]


def test_kaggle_s_ilsvrc_is_refused_where_list_and_images_differ(kaggle):
    (kaggle / KAGGLE / "val" / "ILSVRC2012_val_00000003.JPEG").unlink()
    assert "LOC_val_solution.csv: lists ILSVRC2012_val_00000003" in refusal(folder(kaggle))
    (kaggle / "LOC_val_solution.csv").unlink()
    assert "not in a class folder" in refusal(folder(kaggle))


def test_two_folders_that_hold_classes_are_not_one_root(tmp_path):
    files = [
        f"{kind}/{name}/{index}.png"
        for kind, name in (("animals", "cat"), ("animals", "dog"), ("cars", "bus"), ("cars", "van"))
        for index in range(3)
    ]
    line = refusal(folder(write_tree(tmp_path, files)))
    assert "set datasets.<name>.root" not in line
