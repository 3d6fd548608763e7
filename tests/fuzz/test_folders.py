"""Folders of classes with any name that a disk takes: their images are used under it, listed, or refused."""

import shutil
import unicodedata

import pytest
from fuzzing import fuzzed
from hypothesis import given, strategies as st
from pictures import png

from workers.data.sources import open_listing
from workers.data.sources.listing import unwatched
from workers.errors import DataError
from workers.settings import DatasetSettings

SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
PIXELS = [png(seed, 8) for seed in range(40)]
LETTERS = st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=("Cs",))
NAME = st.one_of(
    st.text(LETTERS, min_size=1, max_size=12),
    st.sampled_from(
        ("train", "Test", "val", "0", "00", "1.0", "nan", "CON", "é", "e\u0301", "n01443537", "__MACOSX", "a b")
    ),
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("folders")


@given(names=st.lists(NAME, min_size=1, max_size=4, unique=True), wrapped=st.booleans())
@fuzzed(300)
def test_class_folders_each_image_is_used_under_its_name_or_all_is_refused(place, names, wrapped):
    shutil.rmtree(place / "root", ignore_errors=True)
    top = place / "root" / "train" if wrapped else place / "root"
    pixels = iter(PIXELS)
    for name in names:
        (top / name).mkdir(parents=True)
        for index in range(6):
            (top / name / f"{index}.png").write_bytes(next(pixels))
    try:
        listing = open_listing(DatasetSettings(root=str(place / "root"), size=8, dev_fraction=0))
        rows = listing.rows(unwatched)
    except DataError as error:
        usual = len(names) > 1 and all(name.isalpha() and name.isascii() and len(name) > 5 for name in names)
        assert not (wrapped and usual), str(error)
        return
    shown = [name for name in names if not name.startswith(".") and name not in SYSTEM_FOLDERS]
    if not wrapped and any(name.lower() in ("train", "training") for name in names):
        return  # one of them is the split, and then its images have no class folder
    assert {unicodedata.normalize("NFC", each) for each in listing.classes} == {
        unicodedata.normalize("NFC", name) for name in shown
    }
    used = [row for split in ("train", "dev", "val", "test") for row in rows.splits[split]]
    assert all(listing.classes[row.label] == row.name.split("/")[0] for row in used)
    assert len(used) + len(rows.left_out) == 6 * len(shown)
