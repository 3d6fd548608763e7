"""The compiled resize gives Pillow's bits."""

import shutil

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from workers.kernels import resize

needs_kernel = pytest.mark.skipif(resize._resize is None, reason="built where a C compiler is at hand")


def _pixels(side: int, seed: int, *, extreme: bool) -> np.ndarray:
    """A window into a wider image, as the centre square of a photograph is; `extreme` ones overshoot everywhere."""
    generator = np.random.default_rng(seed)
    wide = generator.integers(0, 256, (side, side + 5, 3), dtype=np.uint8)
    return np.where(wide > 127, np.uint8(255), np.uint8(0))[:, 2:-3] if extreme else wide[:, 2:-3]


@needs_kernel
@settings(deadline=None)
@given(side=st.integers(1, 90), size=st.integers(1, 70), seed=st.integers(0, 9), extreme=st.booleans())
@example(side=1999, size=256, seed=0, extreme=False)
@example(side=513, size=224, seed=0, extreme=False)
def test_square_any_sides_same_bits_as_pillow(side, size, seed, extreme):
    pixels = _pixels(side, seed, extreme=extreme)
    np.testing.assert_array_equal(resize.square(pixels, size), resize.by_pillow(pixels, size))


@needs_kernel
def test_square_ordinary_pixels_use_the_kernel(monkeypatch):
    monkeypatch.delattr(resize, "by_pillow")
    assert (resize.square(np.full((40, 40, 3), 77, np.uint8), 16) == 77).all()


def test_square_without_kernel_or_with_odd_strides_is_pillows(monkeypatch):
    pixels = _pixels(30, 1, extreme=False)
    odd = np.ascontiguousarray(pixels.transpose(2, 0, 1)).transpose(1, 2, 0)
    expected = resize.by_pillow(pixels, 16)
    np.testing.assert_array_equal(resize.square(odd, 16), expected)
    monkeypatch.setattr(resize, "_resize", None)
    np.testing.assert_array_equal(resize.square(pixels, 16), expected)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_kernel_is_built_where_there_is_a_compiler():
    assert resize._resize is not None
