"""JPEG through libjpeg-turbo: photographs at a fraction of their size, and the small ones of a compressed store.

simplejpeg gives Pillow's bits in four fifths of the time, and tells what Pillow is silent about: damage that libjpeg
went over.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from workers.data.decoding.decisions import Decision

# libjpeg halves a picture up to three times while it decodes, which saves most of the work.
_DIVISORS = (8, 4, 2)
# libjpeg tells its first warning only. Behind the end of the image none can follow; before any other marker stray bytes
# may be all that is heard of a file that is cut off or damaged further on.
_STRAY_BYTES = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9$")
# Some cameras' (Samsung's) header of a scan; nothing reads these values of a sequential JPEG.
_ODD_SCAN = "Invalid SOS parameters for sequential JPEG"
_START_OF_SCAN = 0xDA
_SEQUENTIAL = bytes((0, 63, 0))
# What the binding says of pictures that it cannot handle, and libjpeg may.
_NOT_HANDLED = re.compile(r"tj\w+\(\)")


class DamagedJpeg(Exception):
    """libjpeg found damage and went on; the message is its own. Pixels behind the damage are guesses."""


class UnusualJpeg(Exception):
    """A picture that only Pillow can decode here."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """`pixels` are [height, width, 3] uint8; `decisions` are about what libjpeg warned of and no pixel suffers from."""

    pixels: np.ndarray
    decisions: tuple[Decision, ...] = ()


def divisor(width: int, height: int, wanted: int) -> int:
    """By what to divide a picture's sides while decoding it so that the shorter one keeps at least `wanted` pixels."""
    scale = wanted / min(width, height)
    if scale >= 1:
        return 1
    most = min(width // round(width * scale), height // round(height * scale))
    return next((each for each in _DIVISORS if most >= each), 1)


def decode_divided(content: bytes, width: int, height: int, divided_by: int) -> Decoded:
    """Decodes a grey or RGB picture of `width` × `height` with both sides divided, and rounded up.

    Raises:
        DamagedJpeg: libjpeg warns of damage. Stray bytes at the end are none, nor are odd values in a scan's header:
            some cameras and editors leave them.
        UnusualJpeg: the binding cannot handle it; nothing is known of its damage.
    """
    least = {} if divided_by == 1 else {"min_height": -(-height // divided_by), "min_width": -(-width // divided_by)}
    return _decode(content, {**least, "min_factor": divided_by})


def check_cmyk(content: bytes) -> tuple[Decision, ...]:
    """Decodes a CMYK picture for its damage alone; what is decided about it. Raises as `decode_divided`."""
    return _decode(content, {"colorspace": "CMYK"}).decisions


def _decode(content: bytes, options: Mapping[str, Any]) -> Decoded:
    try:
        return Decoded(simplejpeg.decode_jpeg(content, **options))
    except ValueError as error:
        message = str(error)
        if _NOT_HANDLED.match(message):
            raise UnusualJpeg(message) from error
        plain = _with_plain_scan(content) if message == _ODD_SCAN else content
        if plain != content:
            # Again, and not past the warning: others may be behind it.
            decoded = _decode(plain, options)
            return Decoded(decoded.pixels, (Decision.odd_scan, *decoded.decisions))
        if not _STRAY_BYTES.match(message):
            raise DamagedJpeg(message) from error
    return Decoded(simplejpeg.decode_jpeg(content, **options, strict=False), (Decision.stray_bytes,))


def _with_plain_scan(content: bytes) -> bytes:
    """The same JPEG with the values in its first scan's header that a sequential one has."""
    at = 2
    while content[at : at + 1] == b"\xff" and at + 4 <= len(content):
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if content[at + 1] == _START_OF_SCAN:
            return content[: end - len(_SEQUENTIAL)] + _SEQUENTIAL + content[end:]
        at = end
    return content


def encode(pixels: np.ndarray, quality: int) -> bytes:
    """[size, size, 3] uint8 as a JPEG; 4:2:0 chroma, as photographs have it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def decode_window(content: bytes | memoryview, top: int, left: int, size: int) -> np.ndarray:
    """The `size` × `size` window at (top, left) of what `encode` wrote: [size, size, 3] uint8, a view.

    Raises:
        ValueError: damaged.
    """
    pixels: np.ndarray = simplejpeg.decode_jpeg(content)[top : top + size, left : left + size]
    return pixels
