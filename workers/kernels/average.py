"""A weighted sum of float32 arrays in one pass, in C where it was built and in NumPy where not: the bits are the same.

Products and sums are float64, in the order given, rounded to float32 once. NumPy alone takes four times as long as
reading the arrays does, since every product and every sum is another pass through the cache.

Arrays in files are read and summed in C as well, a part at a time: two threads that read from Python hand the
interpreter to and fro at each of some thousand calls, which takes longer than the sum.
"""

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

try:
    from workers.kernels import _average
except ImportError:  # No C compiler at installation.
    _average = None  # type: ignore[assignment]

_FLOAT32 = np.dtype(np.float32)


def is_built() -> bool:
    """Whether the installation holds the kernel."""
    return _average is not None


def weighted_sum(arrays: Sequence[NDArray[np.float32]], weights: Sequence[float], output: NDArray[np.float32]) -> None:
    """Writes Σ weight · array to `output`; all are of one shape.

    The kernel takes contiguous float32 and lets other threads run meanwhile; anything else is NumPy's.
    """
    assert len(arrays) == len(weights), "one weight an array"
    assert all(array.shape == output.shape for array in arrays), "arrays of one shape"
    if (
        _average is None
        or len(arrays) > _average.MOST_MEMBERS
        or not all(_is_plain(array) for array in (*arrays, output))
    ):
        in_numpy(arrays, weights, output)
        return
    _average.apply(
        tuple(array.ctypes.data for array in arrays), tuple(map(float, weights)), output.ctypes.data, output.size
    )


def weighted_sum_of_files(
    files: Sequence[tuple[int, int]],
    weights: Sequence[float],
    room: NDArray[np.float32],
    output: NDArray[np.float32],
) -> bool:
    """Writes Σ weight · array to `output` (any shape, contiguous float32), without calling Python in between.

    Args:
        files: for each array its open file's descriptor and the byte at which its little-endian float32 begin.
        weights: one an array.
        room: contiguous float32 that is overwritten; best smaller than the cache.

    Returns:
        False where `output` is not the sum: no kernel, room for less than an item of each, or a file that ended too
        soon or could not be read. What is wrong with it, the caller finds out by reading it.
    """
    assert len(files) == len(weights), "one weight an array"
    assert _is_plain(room), "contiguous room"
    assert _is_plain(output), "contiguous output"
    if _average is None or sys.byteorder == "big" or not 0 < len(files) <= min(_average.MOST_MEMBERS, room.size):
        return False
    return _average.apply_to_files(
        tuple(descriptor for descriptor, _ in files),
        tuple(offset_bytes for _, offset_bytes in files),
        tuple(map(float, weights)),
        room.ctypes.data,
        room.size,
        output.ctypes.data,
        output.size,
    )


def _is_plain(array: NDArray[np.float32]) -> bool:
    return array.dtype == _FLOAT32 and array.flags.c_contiguous and array.flags.aligned


def in_numpy(arrays: Sequence[NDArray[np.float32]], weights: Sequence[float], output: NDArray[np.float32]) -> None:
    """The same sum without the kernel."""
    total = np.zeros(output.shape)
    product = np.empty_like(total)
    for array, weight in zip(arrays, weights, strict=True):
        np.multiply(array, weight, out=product, dtype=np.float64)
        total += product
    output[...] = total
