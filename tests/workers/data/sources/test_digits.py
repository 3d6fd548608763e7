"""The bundled digits, upright and turned."""

from pathlib import Path

import numpy as np
from listed import store_of

from workers.data.store import Store
from workers.data.survey import survey
from workers.settings import DatasetSettings, Source

SPLITS = ("train", "dev", "val", "test")


def digits(root: Path, **changes: int) -> Store:
    return store_of(DatasetSettings(source=Source.digits, **{"size": 8, **changes}), root)


def test_splits_hold_all_digits_in_their_shares(tmp_path):
    store = digits(tmp_path)
    assert sum(store.counts.values()) == 1797
    assert abs(store.counts["test"] / 1797 - 0.2) < 0.01
    assert abs(store.counts["val"] / (1797 - store.counts["test"]) - 0.1) < 0.01
    for split in SPLITS:
        share = np.bincount(store.labels(split), minlength=10) / store.counts[split]
        assert np.abs(share - 0.1).max() < 0.02


def test_pixels_are_the_bundled_ones_scaled_to_a_byte(tmp_path):
    from sklearn.datasets import load_digits

    store, bundled = digits(tmp_path), load_digits()
    for row, image, label in zip(store.rows("test"), store.images("test"), store.labels("test"), strict=True):
        index = int(row.removeprefix("digit-"))
        assert label == bundled.target[index]
        np.testing.assert_allclose(image[..., 0], bundled.images[index] * 255 / 16, atol=0.51)
        assert (image[..., 0] == image[..., 1]).all()
        assert (image[..., 0] == image[..., 2]).all()


def test_turned_digits_are_quarter_turns_in_the_right_class(tmp_path):
    upright, turned = digits(tmp_path), digits(tmp_path, orientations=4)
    assert turned.num_classes == 40
    for orientations, store in ((1, upright), (4, turned)):
        assert survey(DatasetSettings(source=Source.digits, size=8, orientations=orientations)).counts == store.counts
    assert turned.classes[:5] == ("0@0", "0@90", "0@180", "0@270", "1@0")
    for split in SPLITS:
        images = dict(zip(upright.rows(split), upright.images(split), strict=True))
        labels = dict(zip(upright.rows(split), upright.labels(split), strict=True))
        assert turned.counts[split] == 4 * upright.counts[split]
        for row, image, label in zip(turned.rows(split), turned.images(split), turned.labels(split), strict=True):
            name, angle = row.split("@")
            np.testing.assert_array_equal(image, np.rot90(images[name], int(angle) // 90))
            assert turned.classes[label] == f"{labels[name]}@{angle}"
