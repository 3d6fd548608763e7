"""safetensors files written piece by piece, each piece hashed as it goes by.

The library's `save` copies all tensors into one new bytes object first, and its `save_file` writes behind Python's
back: nothing can be hashed on the way, and a full disk's error lacks the number that says so. The bytes are the
library's own, and it reads them.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO

import numpy as np

# Fits a core's second-level cache, where the hash leaves it for the write.
_PIECE_BYTES = 1 << 20
# As the library names them: weights, momentum and most persistent buffers; buffers that count.
_DTYPES = {"<f4": "F32", "<i8": "I64"}


@dataclass(frozen=True)
class Written:
    """What a manifest says of a file: its size in bytes and its sha256 in hex."""

    size: int
    sha256: str


def safetensors_pieces(tensors: Mapping[str, np.ndarray]) -> Iterator[memoryview | bytes]:
    """The content of a safetensors file in pieces that are views of the tensors, which must not change meanwhile.

    Eight bytes with the header's length, the header as JSON padded to a multiple of eight, then the tensors in the
    header's order (huggingface/safetensors, README, "Format").

    Args:
        tensors: float32 or int64 arrays by name, of any shape.
    """
    header, end = {}, 0
    # The library's order: wide types first, so that each array lies at a multiple of its width.
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
    """Writes `pieces` one after the other, in one pass over their bytes."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += file.write(piece)
    return Written(size, digest.hexdigest())


def first_not_finite(tensors: Mapping[str, np.ndarray]) -> str | None:
    """The name of the first array that holds a NaN or an infinity, or None."""
    num = _PIECE_BYTES // 4
    for name, array in tensors.items():
        if array.dtype.kind == "f":
            flat = array.reshape(-1)
            if not all(np.isfinite(flat[start : start + num]).all() for start in range(0, flat.size, num)):
                return name
    return None
