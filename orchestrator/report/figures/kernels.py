"""Draws the kernels of members' first layers."""

import io

import numpy as np
from numpy.typing import NDArray

KERNELS_A_ROW = 16


def conv1_kernels(weights: NDArray[np.float32], pixel: int = 4) -> bytes:
    """Draws the first layer's kernels, as Krizhevsky et al. 2012, Fig. 3.

    Args:
        weights: (filters, 3, k, k).
        pixel: width of one weight and of a gap, in pixels of the picture.
    """
    from matplotlib.image import imsave

    picture = kernel_mosaic(weights).repeat(pixel, axis=0).repeat(pixel, axis=1)
    buffer = io.BytesIO()
    imsave(buffer, picture, format="png", pil_kwargs={"pnginfo": None})
    return buffer.getvalue()


def kernel_mosaic(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Arranges kernels in rows of 16 with gaps of one pixel: (height, width, 3).

    All kernels share one scale, so that they are comparable: a dead kernel is grey, not amplified noise.
    """
    low, high = float(weights.min()), float(weights.max())
    # Constant weights have no scale and become mid-grey.
    scaled = (weights - low) / (high - low) if high > low else np.full_like(weights, 0.5)
    pixels = (255 * scaled).round().astype(np.uint8).transpose(0, 2, 3, 1)
    num, side = len(pixels), pixels.shape[1]
    columns = min(KERNELS_A_ROW, num)
    rows = -(-num // columns)
    mosaic = np.zeros((rows * (side + 1) - 1, columns * (side + 1) - 1, 3), dtype=np.uint8)
    for index, kernel in enumerate(pixels):
        top, left = (index // columns) * (side + 1), (index % columns) * (side + 1)
        mosaic[top : top + side, left : left + side] = kernel
    return mosaic
