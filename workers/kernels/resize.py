"""Scales RGB pixels by antialiased bicubic interpolation: squares in C if it was built, all else by Pillow.

The bits are the same. Pillow's loops handle one pixel at a time, and take longer than decoding the photograph (2.0 ms
of a core against 1.2 ms, to 256 pixels).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

try:
    from workers.kernels import _resize
except ImportError:  # No C compiler at installation.
    _resize = None  # type: ignore[assignment]

# Pillow's constants: fraction bits of its integer weights, the cubic's a, and its reach in pixels.
_FRACTION_BITS = 22
_A = -0.5
_REACH = 2.0


def to_shape(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Scales [height, width, 3] uint8 to the height and width of `shape`."""
    if pixels.shape[0] == pixels.shape[1] and shape[0] == shape[1]:
        return square(pixels, shape[0])
    return np.asarray(Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BICUBIC))


def square(pixels: np.ndarray, size: int) -> np.ndarray:
    """Scales [side, side, 3] uint8, whose rows may have any stride, to [size, size, 3] uint8."""
    side = len(pixels)
    assert pixels.shape == (side, side, 3) and pixels.dtype == np.uint8
    if side == size:
        return pixels
    if _resize is None or pixels.strides[1:] != (3, 1):
        return by_pillow(pixels, size)
    table = _table(side, size)
    scaled = np.empty((size, size, 3), np.uint8)
    first, count, weights = (each.ctypes.data for each in (table.first, table.count, table.weights))
    most = table.weights.shape[1]
    _resize.apply(pixels.ctypes.data, pixels.strides[0], side, first, count, weights, most, scaled.ctypes.data, size)
    return scaled


def by_pillow(pixels: np.ndarray, size: int) -> np.ndarray:
    """Does the same as `square` without the kernel."""
    scaled = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(scaled)


@dataclass(frozen=True, eq=False)
class _Table:
    """The input pixels and weights of each output pixel.

    Attributes:
        first, count: [size] int32, the first input pixel and the number of them.
        weights: [size, most] int32 with 22 fraction bits; 0 past `count`.
    """

    first: np.ndarray
    count: np.ndarray
    weights: np.ndarray


# Most photographs have one of a few sizes; a table takes about 30 KB.
@lru_cache(maxsize=256)
def _table(side: int, size: int) -> _Table:
    scale = side / size
    stretch = max(scale, 1.0)
    centre = (np.arange(size) + 0.5) * scale
    # Truncated towards zero, as in C.
    first = np.maximum((centre - _REACH * stretch + 0.5).astype(np.int32), 0)
    count = np.minimum((centre + _REACH * stretch + 0.5).astype(np.int32), side) - first
    place = np.arange(count.max(), dtype=np.int32)
    distance = np.abs((place + first[:, None] - centre[:, None] + 0.5) * (1.0 / stretch))
    values = np.where(place < count[:, None], _cubic(distance), 0.0)
    # Added in order, as in C: a pairwise sum may differ in its last bit.
    values /= np.cumsum(values, axis=1)[:, -1:]
    scaled = values * (1 << _FRACTION_BITS)
    weights = np.where(values < 0, scaled - 0.5, scaled + 0.5).astype(np.int32)
    return _Table(first.astype(np.int32), count.astype(np.int32), np.ascontiguousarray(weights))


def _cubic(distance: np.ndarray) -> np.ndarray:
    near = ((_A + 2.0) * distance - (_A + 3.0)) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * _A
    return np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))
