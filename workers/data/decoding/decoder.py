"""Decodes one image file to `size` × `size` RGB pixels."""

import io
import re
import stat
import struct
import threading
import zlib
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from workers.data.decoding.decisions import Decision, decisions_of, has_transparency
from workers.data.decoding.formats import FORMATS, format_of
from workers.data.decoding.jpeg import DamagedJpeg, Decoded, UnusualJpeg, check_cmyk, decode_divided, divisor
from workers.kernels import resize

# Errors that Pillow's readers raise on damaged files.
_DECODING_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
# A JPEG is decoded at a fraction of its resolution if its sides still have this many times the wanted pixels.
_DRAFT_FACTOR = 2
_STRIP_PIXELS = 1 << 20
# Images of more pixels, which take up to 7 bytes each, are decoded one at a time (JPEGs are decoded at reduced size).
_LARGE_PIXELS = 24_000_000
_one_large = threading.Lock()
# Pillow calls a JPEG that is followed by previews MPO.
_JPEGS = ("JPEG", "MPO")


class BadImage(Exception):
    """An image that cannot be read; the message is the reason."""


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: [size, size, 3] uint8.
        width, height: of the original, in pixels.
        decisions: the ways in which the file differs from a plain RGB image of its name's format.
    """

    pixels: np.ndarray
    width: int
    height: int
    decisions: tuple[Decision, ...] = ()


def read_content(path: Path) -> bytes:
    """Reads a regular file; raises BadImage if it cannot be read or is empty."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadImage("not a regular file")
        content = path.read_bytes()
    except OSError as error:
        raise BadImage(error.strerror or "cannot be read") from error
    if not content:
        raise BadImage("empty file")
    return content


def decode(content: bytes, size: int, name: str = "") -> Picture:
    """Decodes an image, scales its shorter side to `size` (antialiased bicubic) and keeps the centre square.

    EXIF rotation is not applied. Of several frames, the first is used.

    Args:
        content: the bytes of the file.
        size: side of the result in pixels.
        name: the file's name; the decisions say if its extension names another format.

    Raises:
        BadImage: the image is truncated, damaged or too large, or its format is not supported.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            # Pillow only warns of these sizes, and a warning filter would change the whole process.
            if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
                raise BadImage(_bomb(f"{width} × {height}"))
            decisions = decisions_of(image, name)
            if image.format in _JPEGS:
                square = _jpeg_square(image, content, size)
                decisions += square.decisions
                pixels = square.pixels
            else:
                with _one_large if width * height > _LARGE_PIXELS else nullcontext():
                    pixels = _centre_square(image)
            if _has_frames(image):
                decisions += (Decision.first_frame,)
            return Picture(_scaled(pixels, size), width, height, decisions)
    except UnidentifiedImageError as error:
        found = format_of(content)
        if found is None:
            raise BadImage("not an image") from error
        supported = found in FORMATS
        advice = "damaged at its start" if supported else f"not supported; convert it to {' or '.join(FORMATS[:2])}"
        raise BadImage(f"{found}, {advice}") from error
    except Image.DecompressionBombError as error:
        # Pillow raises this from twice the number that it warns of.
        size_of = re.search(r"\d+", str(error))
        raise BadImage(_bomb(size_of[0] if size_of else "its")) from error
    except _DECODING_ERRORS as error:
        raise BadImage(" ".join(str(error).split()) or type(error).__name__) from error


def _bomb(num_pixels: str) -> str:
    return f"{num_pixels} pixels are more than the {Image.MAX_IMAGE_PIXELS} allowed"


def _jpeg_square(image: Image.Image, content: bytes, size: int) -> Decoded:
    """Returns the centre square of an opened JPEG, not yet scaled; raises BadImage if libjpeg finds damage."""
    width, height = image.size
    divided_by = divisor(width, height, _DRAFT_FACTOR * size)
    try:
        if image.mode in ("RGB", "L"):
            decoded = decode_divided(content, width, height, divided_by)
            return Decoded(_square_of(decoded.pixels), decoded.decisions)
        # Pillow knows the several kinds of CMYK, but does not report damage.
        decisions = check_cmyk(content)
    except DamagedJpeg as error:
        # If Pillow notices the damage too, its message says more.
        _centre_square(image)
        raise BadImage(str(error)) from error
    except UnusualJpeg:
        decisions = ()
    if divided_by > 1:
        image.draft(None, (width // divided_by, height // divided_by))
    return Decoded(_centre_square(image), decisions)


def _has_frames(image: Image.Image) -> bool:
    """Returns whether the image has more than one frame; a damaged second frame counts."""
    try:
        return bool(getattr(image, "is_animated", False))
    except _DECODING_ERRORS:
        return True


def centre_square(image: Image.Image, size: int) -> np.ndarray:
    """Returns the centre square, [size, size, 3] uint8; scales only the square, to save memory on long strips."""
    return _scaled(_centre_square(image), size)


def _centre_square(image: Image.Image) -> np.ndarray:
    """Returns a copy of the unscaled centre square, [side, side, 3] uint8."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    rows = max(1, _STRIP_PIXELS // side)
    if side <= rows:
        return np.asarray(to_rgb(image.crop((left, top, left + side, top + side))))
    # In strips: the steps to RGB take up to 20 bytes a pixel.
    pixels = np.empty((side, side, 3), np.uint8)
    for start in range(0, side, rows):
        stop = min(start + rows, side)
        pixels[start:stop] = np.asarray(to_rgb(image.crop((left, top + start, left + side, top + stop))))
    return pixels


def _square_of(pixels: np.ndarray) -> np.ndarray:
    """Returns the centre square of [height, width, 3] as a view, the same as `_centre_square`'s."""
    height, width, _ = pixels.shape
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return pixels[top : top + side, left : left + side]


def _scaled(pixels: np.ndarray, size: int) -> np.ndarray:
    # Copied, because a view would keep the whole image in memory.
    return np.ascontiguousarray(resize.square(pixels, size))


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode to RGB: the high byte of 16-bit grey, transparency on white, the rest as Pillow does it."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if has_transparency(image):
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    return image.convert("RGB")
