"""Small images of noise, each unlike those of other seeds, and folders of them."""

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int, width: int = 10, height: int = 10) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(seed: int, width: int, height: int, corners: int = 3) -> Image.Image:
    """Returns colours that flow into each other, as a photograph's do."""
    return noise(seed, corners, corners).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_tree(root: Path, files: Mapping[str, int | bytes] | Iterable[str], side: int = 10) -> Path:
    """Writes files below `root`: bytes as they are, a number as a PNG of that seed, names alone as PNGs 0, 1, 2, …"""
    contents = files if isinstance(files, Mapping) else {name: seed for seed, name in enumerate(files)}
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else encoded(noise(content, side, side)))
    return root


def png(seed: int, side: int = 16) -> bytes:
    return encoded(noise(seed, side, side))


def write_photos(folder: Path, count: int, side: int = 32) -> None:
    """Writes 0.png, 1.png, …; no two folders of different names have an image in common."""
    own = int.from_bytes(hashlib.sha256(f"{folder.parent.name}/{folder.name}".encode()).digest()[:4])
    write_tree(folder, {f"{index}.png": own + index for index in range(count)}, side)
