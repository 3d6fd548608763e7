"""Draws the kernels of members' first layers."""

import io

import numpy as np
from numpy.typing import NDArray

# Pixels of the picture: the least width of a weight and of a kernel, and the most of all, which fits on any page.
_WEIGHT, _KERNEL, _WIDTH = 8, 40, 288


def conv1_kernels(weights: NDArray[np.float32]) -> bytes:
    """Draws the first layer's kernels (filters, 3, k, k) as a PNG, as Krizhevsky et al. 2012, Fig. 3."""
    from matplotlib.image import imsave

    pixel = max(_WEIGHT, -(-_KERNEL // weights.shape[-1]))
    columns = max(1, _WIDTH // (pixel * (weights.shape[-1] + 1)))
    picture = kernel_mosaic(weights, columns).repeat(pixel, axis=0).repeat(pixel, axis=1)
    buffer = io.BytesIO()
    imsave(buffer, picture, format="png", pil_kwargs={"pnginfo": None})
    return buffer.getvalue()


def kernel_mosaic(weights: NDArray[np.float32], columns: int) -> NDArray[np.uint8]:
    """Arranges kernels in rows with gaps of one pixel: (height, width, 4); where there is no kernel it is transparent.

    All kernels share one scale, so that they are comparable: a dead kernel is grey, not amplified noise.
    """
    low, high = float(weights.min()), float(weights.max())
    # Constant weights have no scale and become mid-grey.
    scaled = (weights - low) / (high - low) if high > low else np.full_like(weights, 0.5)
    pixels = (255 * scaled).round().astype(np.uint8).transpose(0, 2, 3, 1)
    num, side = len(pixels), pixels.shape[1]
    columns = min(columns, num)
    rows = -(-num // columns)
    tiles = np.zeros((rows * columns, side + 1, side + 1, 4), np.uint8)
    tiles[:num, :side, :side, :3], tiles[:num, :side, :side, 3] = pixels, 255
    mosaic = tiles.reshape(rows, columns, side + 1, side + 1, 4).swapaxes(1, 2)
    return mosaic.reshape(rows * (side + 1), columns * (side + 1), 4)[:-1, :-1]
