"""JPEGs of a compressed store, and photographs decoded at a fraction of their size."""

import io

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from workers.data.decoding import decode_window, encode
from workers.data.decoding.jpeg import DamagedJpeg, decode_divided, divisor


def smooth(side: int) -> np.ndarray:
    """A picture that survives JPEG."""
    corners = np.random.default_rng(0).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((side, side), Image.Resampling.BICUBIC))


@given(top=st.integers(0, 8), left=st.integers(0, 8))
def test_decode_window_is_the_window_of_what_pillow_decodes(top, left):
    content = encode(smooth(40), 90)
    whole = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(decode_window(content, top, left, 32), whole[top : top + 32, left : left + 32])
    assert np.abs(whole.astype(int) - smooth(40)).mean() < 3


def test_decode_window_takes_mapped_bytes_and_refuses_damaged_ones():
    content = np.frombuffer(encode(smooth(40), 90), np.uint8)
    content.flags.writeable = False
    assert decode_window(memoryview(content), 0, 0, 40).shape == (40, 40, 3)
    with pytest.raises(ValueError):
        decode_window(memoryview(content)[:-100], 0, 0, 40)


@given(width=st.integers(1, 6000), height=st.integers(1, 6000), wanted=st.integers(1, 600))
def test_divisor_leaves_the_wanted_pixels_and_halves_as_often_as_it_can(width, height, wanted):
    found = divisor(width, height, wanted)
    assert found in (1, 2, 4, 8)
    assert found == 1 or min(width, height) >= found * wanted
    # Rounding of the longer side may cost one halving, no more.
    assert found == 8 or min(width, height) < 4 * found * wanted


@pytest.mark.parametrize("divided_by", [1, 2, 4, 8])
def test_decode_divided_rounds_sides_up(divided_by):
    content = encode(smooth(75), 90)
    side = -(-75 // divided_by)
    assert decode_divided(content, 75, 75, divided_by).pixels.shape == (side, side, 3)
    with pytest.raises(DamagedJpeg, match="Premature end"):
        decode_divided(content[: len(content) // 2], 75, 75, divided_by)
