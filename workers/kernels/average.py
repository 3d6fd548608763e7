"""A weighted sum of float32 arrays in one pass, in C where it was built and in NumPy where not: the bits are the same.

Products and sums are float64, in the order given, rounded to float32 once. NumPy alone takes four times as long as
reading the arrays does, since every product and every sum is another pass through the cache.
"""

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
