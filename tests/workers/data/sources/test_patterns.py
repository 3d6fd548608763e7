"""Which files hold which split: by name, or by patterns of names."""

import pytest
from pictures import write_tree

from workers.data.sources.patterns import expand, glob, split_files
from workers.data.sources.tree import LocalTree
from workers.errors import DataError
from workers.settings import DatasetSettings, Source

KEY = "datasets.<name>.train"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ("a.tar",)),
        ("a{1..3}.tar", ("a1.tar", "a2.tar", "a3.tar")),
        ("a{08..11}", ("a08", "a09", "a10", "a11")),
        ("a{9..11}", ("a9", "a10", "a11")),
        ("{x,yz}-{0..1}", ("x-0", "x-1", "yz-0", "yz-1")),
        ("a{2..1}", ()),
        ("a{0..1}{00..1}", ("a000", "a001", "a100", "a101")),
        ("a{0..11}", tuple(f"a{number}" for number in range(12))),
    ],
)
def test_braces_stand_for_numbers_and_choices(pattern, expected):
    assert expand(pattern, KEY) == expected


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["{0..99999999}", "{0..999999}{0..9}", "{0..999999}{0..999999}"])
def test_braces_that_stand_for_too_many_are_refused(pattern):
    with pytest.raises(DataError, match="more than 1000000 files"):
        expand(pattern, KEY)


@pytest.fixture
def tree(tmp_path):
    names = ("a/1.tar", "a/2.tar", "b/1.tar", "b/x.txt", "top.tar", "[odd].tar")
    return LocalTree(write_tree(tmp_path, dict.fromkeys(names, b"x")))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*/1.tar", ["a/1.tar", "b/1.tar"]),
        ("a/*", ["a/1.tar", "a/2.tar"]),
        ("./a/{2,1}.tar", ["a/1.tar", "a/2.tar"]),
        ("?/[12].tar", ["a/1.tar", "a/2.tar", "b/1.tar"]),
        ("*.tar", ["[odd].tar", "top.tar"]),
    ],
)
def test_wildcards_match_within_one_part_of_a_path(tree, pattern, expected):
    assert [entry.path for entry in glob(tree, pattern, KEY)] == expected


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (("c/*.tar", "a/{1..3}.tar", "a", "a/1.tar/x", "{2..1}", ".", "./"), r"datasets\.<name>\.train"),
        (("../a.tar", "a/../../b", "/etc/*", "~/x", "pipe:cat a", "s3://bucket/x"), "only files below the root"),
    ],
)
def test_pattern_of_nothing_or_out_of_the_root_is_refused(tree, patterns, words):
    for pattern in patterns:
        with pytest.raises(DataError, match=words):
            glob(tree, pattern, KEY)


def test_splits_are_told_by_the_first_word_that_names_one(tmp_path):
    files = {
        "train": ["data/train-00000-of-00001.tar", "imagenet1k-train-0000.tar", "train/0001.tar"],
        "val": ["data/validation-0.tar", "Validation_000.tar", "validation/x.tar"],
        "test": ["test.tar"],
    }
    others = ["trainer-0.txt", "train-0.txt", "other/train-1.tar"]
    names = [name for of_split in files.values() for name in of_split]
    root = write_tree(tmp_path, dict.fromkeys([*names, *others], b"x"))
    found = split_files(LocalTree(root), DatasetSettings(source=Source.webdataset), ".tar")
    for split, expected in files.items():
        assert [entry.path for entry in found.get(split, ())] == sorted(expected)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (
            ["train-00000-of-00003.tar", "train-00002-of-00003.tar"],
            r"train-…: part 1 of 00003 is missing: fetch it, or",
        ),
        (["train-00000-of-00003.tar", "train-00001-of-00003.tar"], r"part 2 of 00003 is missing"),
        (["train-000000.tar", "train-000001.tar", "train-000003.tar"], r"train-…: part 2 is missing"),
        (["train-0.tar", "data/extra.tar"], r"extra\.tar: its name means no split"),
        (["train-0.tar", "dev-0.tar"], r"dev-0\.tar: its name means no split"),
    ],
)
def test_files_that_are_missing_or_in_no_split_are_told_unless_a_pattern_names_the_others(tmp_path, names, line):
    tree = LocalTree(write_tree(tmp_path, dict.fromkeys(names, b"x")))
    with pytest.raises(DataError, match=line):
        split_files(tree, DatasetSettings(source=Source.webdataset), ".tar")
    named = DatasetSettings(source=Source.webdataset, train="train-*.tar", val="train-*.tar", test="train-*.tar")
    assert split_files(tree, named, ".tar")["train"]


def test_parts_may_be_numbered_from_one(tmp_path):
    tree = LocalTree(write_tree(tmp_path, dict.fromkeys(["train-1-of-2.tar", "train-2-of-2.tar"], b"x")))
    assert len(split_files(tree, DatasetSettings(source=Source.webdataset), ".tar")["train"]) == 2


def test_two_words_for_a_split_are_refused_unless_a_pattern_names_it(tmp_path):
    tree = LocalTree(write_tree(tmp_path, dict.fromkeys(["train-0.tar", "val-0.tar", "data/Validation-0.tar"], b"x")))
    with pytest.raises(DataError, match=r"val-0\.tar and .*Validation-0\.tar both mean val: set datasets\.<name>\.val"):
        split_files(tree, DatasetSettings(source=Source.webdataset), ".tar")
    found = split_files(tree, DatasetSettings(source=Source.webdataset, val="val-*.tar"), ".tar")
    assert [entry.path for entry in found["val"]] == ["val-0.tar"]
