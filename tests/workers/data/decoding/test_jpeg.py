"""JPEGs of a compressed store, and photographs decoded at a fraction of their size."""

import io

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from workers.data.decoding import decode_stored, encode
from workers.data.decoding.jpeg import DamagedJpeg, decode_divided, divisor


def smooth(side: int) -> np.ndarray:
    """A picture that survives JPEG."""
    corners = np.random.default_rng(0).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("width", [40, 57])
def test_decode_stored_is_what_pillow_decodes(width):
    pixels = smooth(60)[:40, :width]
    content = encode(pixels, 90)
    whole = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(decode_stored(content), whole)
    assert np.abs(whole.astype(int) - pixels).mean() < 3


def test_decode_stored_takes_mapped_bytes_and_refuses_damaged_ones():
    content = np.frombuffer(encode(smooth(40), 90), np.uint8)
    content.flags.writeable = False
    assert decode_stored(memoryview(content)).shape == (40, 40, 3)
    with pytest.raises(ValueError):
        decode_stored(memoryview(content)[:-100])


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
