"""Prepared images as small JPEGs, for stores on disks too small for raw pixels (about 22 KB an image against 197)."""

import io

import numpy as np
from PIL import Image


def encode(pixels: np.ndarray, quality: int) -> bytes:
    """[size, size, 3] uint8 as a JPEG; 4:2:0 chroma, as photographs have it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def decode_window(content: bytes | memoryview, top: int, left: int, size: int) -> np.ndarray:
    """The `size` × `size` window at (top, left) of what `encode` wrote: [size, size, 3] uint8."""
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        return np.asarray(image)[top : top + size, left : left + size]
