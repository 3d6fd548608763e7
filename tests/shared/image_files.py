"""Images of noise: the same bytes for the same seed, other ones for every other."""

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, side: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def png(seed: int, side: int = 16) -> bytes:
    return encoded(photo(seed, side))


def write_photos(folder: Path, count: int, side: int = 32) -> None:
    """Writes 0.png, 1.png, …; no two folders of different names get an image in common."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        name = f"{folder.parent.name}/{folder.name}/{index}"
        photo(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]), side).save(folder / f"{index}.png")
