"""What the target holds out is left out of another dataset's train, and of nothing else."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from listed import folder, store_of
from pictures import write_tree

from workers.data.store import Excluded, PrepareProgress, Store, held_out_by, prepare
from workers.errors import DataError

HELD_OUT = ("dev", "val", "test")
OWN_IMAGES = 3


def contents(store: Store, *splits: str) -> set[bytes]:
    return {bytes(row) for split in splits for row in store.contents(split)}


def excluded(numbers: list[bytes]) -> Excluded:
    return Excluded(np.unique(np.array(numbers, "S32")))


def some_of(store: Store, split: str, count: int) -> Excluded:
    return excluded([bytes(row) for row in store.contents(split)[:count]])


# Of val and of dev.
fractions = st.tuples(st.sampled_from([0.05, 0.1, 0.34, 0.6]), st.sampled_from([0.0, 0.1, 0.5]))
# Seeds of images, a class: 0…29 in train of either dataset, and what each may hold in its own val and test.
few_images = st.sets(st.integers(0, 29), min_size=1, max_size=4)
train_images = st.sets(st.integers(0, 29), min_size=4, max_size=12)


@st.composite
def roots(draw: st.DrawFn) -> dict[str, int]:
    """The files of one root, whose images may be any of the other's, in any split."""
    files = {}
    for name in ("cat", "dog"):
        files |= {f"train/{name}/{seed}.png": seed for seed in draw(train_images)}
        # Mostly images that nobody else has, so that something is left to train on.
        files |= {f"train/{name}/own{extra}.png": draw(st.integers(1000, 9999)) for extra in range(OWN_IMAGES)}
    if draw(st.booleans()):
        files |= {f"val/{name}/{seed}.png": seed for name in ("cat", "dog") for seed in draw(few_images)}
    if draw(st.booleans()):
        files |= {f"test/{seed}.png": seed for seed in draw(few_images)}
    return files


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(roots(), roots(), fractions, fractions)
def test_no_image_that_the_target_holds_out_is_trained_on_elsewhere(target, superset, of_target, of_superset):
    with tempfile.TemporaryDirectory() as place:
        stores = Path(place, "stores")
        narrow, wide = (
            folder(write_tree(Path(place, name), files), val_fraction=fraction[0], dev_fraction=fraction[1])
            for name, files, fraction in (("target", target, of_target), ("superset", superset, of_superset))
        )
        try:
            own, alone = store_of(narrow, stores), store_of(wide, stores)
            kept = store_of(wide, stores, excluded=held_out_by(own))
        except DataError as error:
            assert "is left to train on" in str(error)
            return
        held_out = contents(own, *HELD_OUT)
        assert not contents(kept, "train") & held_out
        assert contents(kept, "train") == contents(alone, "train") - held_out
        assert all(kept.rows(split) == alone.rows(split) for split in HELD_OUT)
        assert (kept.path == alone.path) == (not contents(alone, "train") & held_out)


def test_left_out_images_are_listed_with_the_reason_and_all_their_copies(plain_tree, tmp_path):
    alone = store_of(folder(plain_tree), tmp_path / "stores")
    gone = alone.rows("train")[:2]
    write_tree(plain_tree, {"train/a/copy.png": (plain_tree / "train" / gone[0]).read_bytes()})
    store = store_of(folder(plain_tree), tmp_path / "stores", excluded=some_of(alone, "train", 2))
    assert {each["path"] for each in store.left_out} == {"train/a/copy.png", *(f"train/{row}" for row in gone)}
    assert {each["reason"] for each in store.left_out} == {"held out by the target"}
    assert store.rows("train") == alone.rows("train")[2:]
    kept = store.images("train")
    np.testing.assert_array_equal(kept, alone.images("train")[2:])


def test_each_set_of_excluded_images_has_a_store_found_again_without_reading(plain_tree, tmp_path):
    alone = store_of(folder(plain_tree), tmp_path / "one")
    # With the dataset's own store beside them, and without.
    for place in (tmp_path / "one", tmp_path / "two"):
        narrowed = {}
        for count in (1, 2):
            narrowed[count] = prepare(folder(plain_tree), place, excluded=some_of(alone, "train", count))
        assert len({alone.path.name, *(path.name for path in narrowed.values())}) == 3
        seen: list[PrepareProgress] = []
        for count, path in narrowed.items():
            assert prepare(folder(plain_tree), place, seen.append, some_of(alone, "train", count)) == path
        assert seen == []
    assert prepare(folder(plain_tree), tmp_path / "one") == alone.path


def test_class_that_is_held_out_whole_is_named_with_the_reason(plain_tree, tmp_path):
    alone = store_of(folder(plain_tree), tmp_path / "stores")
    labels = alone.labels("train")
    assert labels is not None
    whole = excluded([bytes(row) for row in alone.contents("train")[labels == 1]])
    with pytest.raises(DataError, match=r"no image of class b is left .*: held out by the target"):
        prepare(folder(plain_tree), tmp_path / "stores", excluded=whole)


def test_contents_that_end_in_zeros_are_told_apart():
    ends = [bytes([7] * 31 + [last]) for last in (0, 1)]
    keep_out = excluded(ends[:1])
    assert keep_out._among(np.array(ends, "S32")).tolist() == [True, False]
