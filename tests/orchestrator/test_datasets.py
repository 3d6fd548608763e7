"""Pre-training never sees what the target holds out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.config import compose
from orchestrator.datasets import prepare_all
from workers.errors import DataError


def paint(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path.with_suffix(".png"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(("cat", "dog", "owl")):
        for image in range(20):
            paint(tmp_path / "photos" / "train" / name / f"{image}", 100 * number + image)
    return tmp_path / "photos"


def overrides(photos: Path, *more: str) -> list[str]:
    (photos.parent / "two.txt").write_text("cat\ndog\n")
    return [
        "experiment=tiny_imagenet",
        f"datasets.target.root={photos}",
        f"datasets.target.classes={photos.parent / 'two.txt'}",
        f"datasets.superset.root={photos}",
        f"datasets.store={photos.parent / 'store'}",
        *more,
    ]


def test_target_and_superset_of_one_folder_share_what_they_hold_out(photos: Path) -> None:
    prepared = prepare_all(compose(overrides(photos)), lambda line: None)
    assert set(prepared.stores) == {"target", "superset"}


def test_superset_that_holds_out_less_is_refused_naming_an_image(photos: Path) -> None:
    config = compose(overrides(photos, "datasets.superset.val_fraction=0.05", "datasets.target.val_fraction=0.3"))
    with pytest.raises(DataError, match=r"datasets\.superset: \d+ of its training images are in the val split .*png"):
        prepare_all(config, lambda line: None)


def test_superset_that_trains_on_the_targets_test_images_is_refused(photos: Path) -> None:
    other = photos.parent / "others"
    for image in range(20):
        paint(other / "train" / "cat" / f"{image}", 1000 + image)
        paint(other / "train" / "dog" / f"{image}", 2000 + image)
    paint(other / "test" / "0", 205)
    config = compose(overrides(photos, f"datasets.target.root={other}"))
    with pytest.raises(DataError, match=r"in the test split of datasets\.target, first owl/5\.png"):
        prepare_all(config, lambda line: None)
