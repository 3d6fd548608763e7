"""The compiled conversion of bytes to floats gives the bits of torch's operators."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from workers.kernels import pixels as kernel

needs_kernel = pytest.mark.skipif(kernel._pixels is None, reason="built where a C compiler is at hand")


@needs_kernel
@settings(deadline=None)
@given(st.integers(0, 5), st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.integers(0, 9))
def test_floats_are_product_and_sum_each_rounded(num_images, height, width, threads, seed):
    generator = np.random.default_rng(seed)
    pixels = torch.from_numpy(generator.integers(0, 256, (num_images, height, width, 3), dtype=np.uint8))
    flips = generator.random(num_images) < 0.5
    scale = torch.from_numpy(generator.normal(size=3).astype(np.float32))
    offsets = torch.from_numpy(generator.normal(size=(num_images, 3)).astype(np.float32))
    # A guard on either side shows a write past the end.
    memory = torch.full((pixels.numel() + 8,), 7.0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        kernel.to_floats(pixels, torch.from_numpy(flips) if flips.any() else None, scale, offsets, memory[4:-4])
    finally:
        torch.set_num_threads(before)
    seen = torch.stack(
        [image.flip(1) if flip else image for image, flip in zip(pixels, flips, strict=True)] or [pixels]
    )
    wanted = seen.float().reshape(pixels.shape) * scale + offsets[:, None, None, :]
    assert torch.equal(memory[4:-4], wanted.reshape(-1))
    assert memory[:4].tolist() == memory[-4:].tolist() == [7.0] * 4


def test_pixels_that_are_not_in_a_row_are_left_to_torch():
    assert not kernel.serves(torch.zeros((2, 4, 4, 3), dtype=torch.uint8).transpose(1, 2))


def test_kernel_is_built_where_there_is_a_compiler():
    if shutil.which("cc"):
        assert kernel._pixels is not None
