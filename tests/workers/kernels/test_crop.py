"""The compiled copy of a window gives the bits of plain indexing."""

import shutil

import numpy as np
import pytest
from hypothesis import given, strategies as st

from workers.kernels import crop, resize

needs_kernel = pytest.mark.skipif(not crop.is_built(), reason="built where a C compiler is at hand")


@given(height=st.integers(0, 5), width=st.integers(0, 40), left=st.integers(0, 3), reflected=st.booleans())
def test_copy_any_window_is_that_of_plain_indexing(height: int, width: int, left: int, reflected: bool) -> None:
    image = np.random.default_rng(width).integers(0, 256, (height + 1, width + 4, 3), dtype=np.uint8)
    image.flags.writeable = False  # As a mapped store is.
    window = image[1:, left : left + width]
    # Bytes around the target must stay: the kernel stores whole vectors.
    around = np.full((3, height, width, 3), 7, np.uint8)
    for copy in (crop.copy, crop.in_torch):
        copy(window, around[1], reflected)
        np.testing.assert_array_equal(around[1], window[:, ::-1] if reflected else window)
        assert (around[[0, 2]] == 7).all()


@needs_kernel
def test_copy_window_of_an_image_uses_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(crop, "in_torch")
    target = np.empty((4, 4, 3), np.uint8)
    crop.copy(np.full((9, 9, 3), 5, np.uint8)[2:6, 3:7], target, True)
    assert (target == 5).all()


def test_copy_window_that_the_kernel_does_not_take_is_copied_too() -> None:
    window = np.random.default_rng(0).integers(0, 256, (3, 4, 4), dtype=np.uint8).transpose(1, 2, 0)
    target = np.empty((4, 4, 3), np.uint8)
    crop.copy(window, target, True)
    np.testing.assert_array_equal(target, window[:, ::-1])


def test_copy_other_shape_is_refused() -> None:
    with pytest.raises(AssertionError):
        crop.copy(np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4, 3), np.uint8), False)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_kernels_are_built_where_there_is_a_compiler() -> None:
    assert crop.is_built()
    assert resize.is_built()
