"""JPEG through libjpeg-turbo: photographs at a fraction of their size, and the small images of a compressed store.

simplejpeg gives Pillow's bits in four fifths of the time, and unlike Pillow, reports damage that libjpeg passes over.
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

# libjpeg can halve an image up to three times while it decodes, which saves most of the work.
_DIVISORS = (8, 4, 2)
# libjpeg reports only its first warning. After the end of the image no other can follow. Any other may hide that the
# file is cut off or damaged further on.
_STRAY_BYTES = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9$")
# simplejpeg's messages about images that it cannot handle, but Pillow may.
_NOT_HANDLED = re.compile(r"tj\w+\(\)")


class DamagedJpeg(Exception):
    """libjpeg found damage, after which pixels are guesses; the message is libjpeg's."""


class UnusualJpeg(Exception):
    """simplejpeg cannot decode the image, but Pillow may."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pixels [height, width, 3] uint8, and the decisions about warnings of libjpeg that affect no pixel."""

    pixels: np.ndarray
    decisions: tuple[Decision, ...] = ()


def divisor(width: int, height: int, wanted: int) -> int:
    """Returns the divisor of an image's sides in decoding that leaves the shorter one at least `wanted` pixels."""
    scale = wanted / min(width, height)
    if scale >= 1:
        return 1
    most = min(width // round(width * scale), height // round(height * scale))
    return next((each for each in _DIVISORS if most >= each), 1)


def decode_divided(content: bytes, width: int, height: int, divided_by: int) -> Decoded:
    """Decodes a grey or RGB image of `width` × `height` with both sides divided and rounded up.

    Raises:
        DamagedJpeg: libjpeg warns of anything but stray bytes at the end, which some cameras and editors write.
        UnusualJpeg: simplejpeg cannot handle the image, which may be damaged or not.
    """
    least = {} if divided_by == 1 else {"min_height": -(-height // divided_by), "min_width": -(-width // divided_by)}
    return _decode(content, {**least, "min_factor": divided_by})


def check_cmyk(content: bytes) -> tuple[Decision, ...]:
    """Checks a CMYK image for damage; returns the decisions about it. Raises as `decode_divided`."""
    return _decode(content, {"colorspace": "CMYK"}).decisions


def _decode(content: bytes, options: Mapping[str, Any]) -> Decoded:
    try:
        return Decoded(simplejpeg.decode_jpeg(content, **options))
    except ValueError as error:
        message = str(error)
        if _NOT_HANDLED.match(message):
            raise UnusualJpeg(message) from error
        if not _STRAY_BYTES.match(message):
            raise DamagedJpeg(message) from error
    return Decoded(simplejpeg.decode_jpeg(content, **options, strict=False), (Decision.stray_bytes,))


def encode(pixels: np.ndarray, quality: int) -> bytes:
    """Encodes [height, width, 3] uint8 as a JPEG with 4:2:0 chroma, like photographs."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def decode_stored(content: bytes | memoryview) -> np.ndarray:
    """Decodes an image from `encode`: [height, width, 3] uint8; raises ValueError if the JPEG is damaged."""
    pixels: np.ndarray = simplejpeg.decode_jpeg(content)
    return pixels
