"""Images anywhere in a root: each is used, listed as left out, or the root is refused; the sums agree."""

import re
import shutil

import pytest
from fuzzing import fuzzed
from hypothesis import given, strategies as st
from pictures import png

from workers.data.sources import open_listing
from workers.data.sources.listing import unwatched
from workers.errors import DataError
from workers.settings import DatasetSettings, OnBad, Source

PIXELS = [png(seed, 8) for seed in range(60)]
SPLITS = ("train", "train", "Train", "val", "Valid", "valid2", "test", "Test", "dev", "images", "extra")
FOLDERS = ("cat", "dog", "images", "Images", "cat/images", "cat/more", "test", "unknown", "")
PLACES = st.tuples(st.sampled_from((*SPLITS, "")), st.sampled_from(FOLDERS), st.integers(1, 4))
TABLES = ("train.csv", "trainLabels.csv", "val.csv", "valid.csv", "test.csv", "sample_submission.csv")
# As the source says it of a folder that it does not look into.
_HOLDS = re.compile(r"holds (\d+) images")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("trees")


def laid_out(place, places):
    """The paths of the images, four of each of two classes in train/ among them."""
    shutil.rmtree(place / "root", ignore_errors=True)
    usual = [(f"train/{kind}", index) for kind in ("cat", "dog") for index in range(4)]
    more = [("/".join(filter(None, (split, inside))), 10 + index) for split, inside, n in places for index in range(n)]
    paths = sorted({f"{folder}/{index}.png".removeprefix("/") for folder, index in usual + more})
    for path, content in zip(paths, PIXELS, strict=False):
        (place / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        (place / "root" / path).write_bytes(content)
    return paths[: len(PIXELS)]


def told_of(settings):
    """How many images are used or listed; None if the root is refused."""
    try:
        rows = open_listing(settings).rows(unwatched)
    except DataError as error:
        assert "\n" not in str(error)
        return None
    used = {row.path for split in rows.splits.values() for row in split}
    # A line of train may be left out because val names its image too.
    listed = {each.path: each.reason for each in rows.left_out if each.path not in used}
    return len(used) + sum(int(held[1]) if (held := _HOLDS.match(reason)) else 1 for reason in listed.values())


@given(places=st.lists(PLACES, max_size=4), skip=st.booleans())
@fuzzed(60)
def test_folder_every_image_of_a_tree_is_used_or_listed_or_all_is_refused(place, places, skip):
    paths = laid_out(place, places)
    on_bad = OnBad.skip if skip else OnBad.stop
    found = told_of(DatasetSettings(root=str(place / "root"), size=8, on_bad=on_bad))
    assert found in (None, len(paths))


@given(
    places=st.lists(PLACES, max_size=4),
    tables=st.dictionaries(st.sampled_from(TABLES), st.integers(1, 9)),
    data=st.data(),
)
@fuzzed(60)
def test_csv_every_image_of_a_tree_is_used_or_listed_or_all_is_refused(place, places, tables, data):
    paths = laid_out(place, places)
    for name, count in {**tables, "train.csv": 8}.items():
        named = (
            paths if name != "train.csv" else [path for path in paths if path.startswith(("train/cat", "train/dog"))]
        )
        chosen = data.draw(st.permutations(named))[:count]
        lines = [f"{path},{'cat' if number % 2 else 'dog'}" for number, path in enumerate(chosen)]
        (place / "root" / name).write_text("\n".join(["id,label", *lines]) + "\n")
    found = told_of(DatasetSettings(source=Source.csv, root=str(place / "root"), size=8))
    assert found in (None, len(paths))
