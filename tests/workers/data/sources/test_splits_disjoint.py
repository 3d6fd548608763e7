"""Train, dev, val and test never mix: inside a dataset, nor between a target and its superset."""

import itertools
from pathlib import Path

import pytest
from listed import folder, store_of
from pictures import write_tree

from workers.data.sources import survey
from workers.data.store import Store
from workers.settings import DatasetSettings, Source

SPLITS = ("train", "dev", "val", "test")


def contents(store: Store, split: str) -> set[bytes]:
    return {bytes(row) for row in store.contents(split)}


def assert_disjoint(store: Store) -> None:
    for one, other in itertools.combinations(SPLITS, 2):
        assert not contents(store, one) & contents(store, other), (one, other)


def assert_never_trained_on(superset: Store, target: Store) -> None:
    held_out = set().union(*(contents(target, split) for split in SPLITS[1:]))
    assert not contents(superset, "train") & held_out
    assert contents(target, "dev") <= contents(superset, "dev") | contents(superset, "val")


@pytest.fixture
def trees(plain_tree: Path, published_tree: Path) -> dict[str, Path]:
    """Both layouts, with copies planted inside a class, between classes, and of val and test images in train."""
    write_tree(plain_tree, {f"train/a/copy{index}.png": index for index in range(20)})
    write_tree(plain_tree, {f"train/b/twin{index}.png": index for index in range(20)})
    write_tree(plain_tree, {"train/c/leak.png": 1002, "train/a/leak.png": 1003})
    write_tree(published_tree, {f"train/n1/images/twin{index}.JPEG": index for index in range(10)})
    write_tree(published_tree, {"train/n2/images/leak.JPEG": 2001, "train/n0/images/leak.JPEG": 3002})
    for root, names in ((plain_tree, "a\nc\n"), (published_tree, "n0\nn2\n")):
        (root / "target.txt").write_text(names)
    return {"plain": plain_tree, "published": published_tree}


@pytest.mark.parametrize("layout", ["plain", "published"])
@pytest.mark.parametrize("dev_fraction", [0, 0.1, 0.4])
def test_splits_share_no_image(trees, tmp_path, layout, dev_fraction):
    settings = folder(trees[layout], dev_fraction=dev_fraction)
    store = store_of(settings, tmp_path / "stores")
    assert_disjoint(store)
    assert {each["path"].rsplit("/", 1)[1].split(".")[0] for each in store.left_out} == {"leak"}
    assert len(store.left_out) == 2
    assert "same content as" in store.left_out[0]["reason"]


@pytest.mark.parametrize("layout", ["plain", "published"])
@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_superset_trains_on_no_held_out(trees, tmp_path, layout, fraction):
    superset = folder(trees[layout], val_fraction=fraction, dev_fraction=fraction)
    target = DatasetSettings(**{**superset.__dict__, "classes": str(trees[layout] / "target.txt")})
    stores = store_of(superset, tmp_path / "stores"), store_of(target, tmp_path / "stores")
    assert_disjoint(stores[1])
    assert_never_trained_on(*stores)


def test_counts_agree_with_the_survey_without_copies(plain_tree, published_tree, tmp_path):
    for root, dev in itertools.product((plain_tree, published_tree), (0, 0.1, 0.3)):
        settings = folder(root, dev_fraction=dev)
        assert store_of(settings, tmp_path / "stores").counts == survey(settings).counts


def test_digits_and_their_orientations_never_mix(tmp_path):
    target = store_of(DatasetSettings(source=Source.digits, size=8), tmp_path)
    superset = store_of(DatasetSettings(source=Source.digits, size=8, orientations=4), tmp_path)
    assert_disjoint(target)
    assert_disjoint(superset)
    assert_never_trained_on(superset, target)
    for split in SPLITS:
        assert contents(superset, split) == contents(target, split)
