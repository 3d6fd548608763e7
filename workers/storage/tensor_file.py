"""Writes safetensors files in pieces and hashes each piece as it is written.

The library's `save` first copies all tensors into one new bytes object. Its `save_file` writes from native code, so
nothing can be hashed on the way, and its error on a full disk has no errno. The bytes are the same as the library's.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from workers.storage.atomic import sha256_of

# Fits a core's L2 cache, so that the write reads it from there after the hash.
_PIECE_BYTES = 1 << 20
# The library's names: F32 for weights, momentum and most persistent buffers, I64 for buffers that count.
_DTYPES = {"<f4": "F32", "<i8": "I64"}


@dataclass(frozen=True)
class Written:
    """A file's size in bytes and its sha256 in hex."""

    size: int
    sha256: str


def written(path: Path) -> Written:
    """Reads a file and returns its size and sha256."""
    return Written(path.stat().st_size, sha256_of(path))


def safetensors_pieces(tensors: Mapping[str, np.ndarray]) -> Iterator[memoryview | bytes]:
    """Yields the content of a safetensors file in pieces; most are views of the tensors, which must not change yet.

    The file has eight bytes with the header's length, the header as JSON padded to a multiple of eight, and the tensors
    in the header's order (huggingface/safetensors, README, "Format").

    Args:
        tensors: float32 or int64 arrays by name, of any shape.
    """
    header, end = {}, 0
    # The library's order: wide types first, so that each array starts at a multiple of its width.
    for name in sorted(tensors, key=lambda one: (-tensors[one].itemsize, one)):
        array = tensors[name]
        assert array.dtype.str in _DTYPES, f"{name} is {array.dtype}"
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _DTYPES[array.dtype.str], "shape": array.shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in header:
        data = tensors[name].reshape(-1).view(np.uint8).data
        for start in range(0, len(data), _PIECE_BYTES):
            yield data[start : start + _PIECE_BYTES]


def write_hashed(file: IO[bytes], pieces: Iterable[memoryview | bytes]) -> Written:
    """Writes and hashes `pieces` in one pass over their bytes."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += file.write(piece)
    return Written(size, digest.hexdigest())


def first_not_finite(tensors: Mapping[str, np.ndarray]) -> str | None:
    """Returns the name of the first array with a NaN or an infinity, or None."""
    num = _PIECE_BYTES // 4
    for name, array in tensors.items():
        if array.dtype.kind == "f":
            flat = array.reshape(-1)
            if not all(np.isfinite(flat[start : start + num]).all() for start in range(0, flat.size, num)):
                return name
    return None
