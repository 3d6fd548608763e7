"""Channel statistics against numpy's own."""

import numpy as np
import pytest

from workers.data import colour
from workers.data.colour import colour_statistics


def photographs(num_images: int = 50) -> np.ndarray:
    generator = np.random.default_rng(3)
    shared = generator.normal(120, 50, (num_images, 9, 9, 1))
    return (shared + generator.normal(0, (10, 20, 30), (num_images, 9, 9, 3))).clip(0, 255).astype(np.uint8)


def test_statistics_are_those_of_all_pixels() -> None:
    images = photographs()
    pixels = images.reshape(-1, 3) / 255
    found = colour_statistics(images)
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, pixels.std(axis=0), rtol=1e-9)
    vectors = np.array(found.eigenvectors)
    rebuilt = vectors @ np.diag(found.eigenvalues) @ vectors.T
    np.testing.assert_allclose(rebuilt, np.cov(pixels.T, bias=True), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)


def test_eigenvalues_fall_and_vectors_have_a_fixed_sign() -> None:
    found = colour_statistics(photographs())
    assert list(found.eigenvalues) == sorted(found.eigenvalues, reverse=True)
    vectors = np.array(found.eigenvectors)
    assert (vectors[np.abs(vectors).argmax(axis=0), range(3)] > 0).all()


def test_chunks_and_order_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    images = photographs()
    whole = colour_statistics(images)
    monkeypatch.setattr(colour, "_CHUNK_PIXELS", 200)
    assert colour_statistics(images) == whole
    assert colour_statistics(images[::-1]) == whole


def test_large_sets_are_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colour, "MOST_IMAGES", 20)
    images = photographs(50)
    assert colour_statistics(images) == colour_statistics(images[::3])


def test_grey_images_of_one_level_give_finite_statistics() -> None:
    found = colour_statistics(np.full((3, 4, 4, 3), 128, np.uint8))
    assert min(found.std) > 0
    assert min(found.eigenvalues) >= 0
    assert np.isfinite(found.eigenvectors).all()
