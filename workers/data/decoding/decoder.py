"""One image file to `size` × `size` RGB pixels."""

import io
import re
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from workers.data.decoding.decisions import Decision, decisions_of, has_transparency
from workers.data.decoding.formats import FORMATS, format_of
from workers.data.decoding.jpeg import DamagedJpeg, Decoded, UnusualJpeg, check_cmyk, decode_divided, divisor
from workers.kernels import resize

# What Pillow's readers raise on damaged files.
_DECODING_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    ZeroDivisionError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
# A JPEG may be decoded at a fraction of its resolution as long as this many pixels are left for each wanted one.
_DRAFT_FACTOR = 2
# MPO is Pillow's name of a JPEG with previews behind it.
_JPEGS = ("JPEG", "MPO")


class BadImage(Exception):
    """An image that cannot be read; the message is the reason."""


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: [size, size, 3] uint8.
        width, height: of the original, in pixels.
        decisions: what the file is besides a plain RGB image of its name's format.
    """

    pixels: np.ndarray
    width: int
    height: int
    decisions: tuple[Decision, ...] = ()


def read_content(path: Path) -> bytes:
    """The bytes of a regular file; raises BadImage where there are none."""
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

    `name` is what the file is called, whose ending may tell of another format. EXIF rotation is not applied. Of several
    frames the first counts.

    Raises:
        BadImage: truncated or damaged, too large to be meant, or no image of the allowed formats.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            # Pillow only warns of these, and a warning filter would be the whole process's.
            if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
                raise BadImage(_bomb(f"{width} × {height}"))
            decisions = decisions_of(image, name)
            if image.format in _JPEGS:
                square = _jpeg_square(image, content, size)
                decisions += square.decisions
                pixels = square.pixels
            else:
                pixels = _centre_square(image)
            if _has_frames(image):
                decisions += (Decision.first_frame,)
            return Picture(_scaled(pixels, size), width, height, decisions)
    except UnidentifiedImageError as error:
        raise BadImage(_unidentified(content)) from error
    except Image.DecompressionBombError as error:
        # Refused while opening, at twice the number that Pillow warns of.
        size_of = re.search(r"\d+", str(error))
        raise BadImage(_bomb(size_of[0] if size_of else "its")) from error
    except _DECODING_ERRORS as error:
        raise BadImage(" ".join(str(error).split()) or type(error).__name__) from error


def _bomb(num_pixels: str) -> str:
    return f"{num_pixels} pixels are more than the {Image.MAX_IMAGE_PIXELS} allowed"


def _unidentified(content: bytes) -> str:
    found = format_of(content)
    if found is None:
        return "not an image"
    if found in FORMATS:
        return f"{found}, damaged at its start"
    return f"{found}, which is not read: only {', '.join(FORMATS)} are"


def _jpeg_square(image: Image.Image, content: bytes, size: int) -> Decoded:
    """The centre square of an opened JPEG, not yet scaled; raises BadImage where libjpeg finds it damaged."""
    width, height = image.size
    divided_by = divisor(width, height, _DRAFT_FACTOR * size)
    try:
        if image.mode in ("RGB", "L"):
            decoded = decode_divided(content, width, height, divided_by)
            return Decoded(_square_of(decoded.pixels), decoded.decisions)
        # Of CMYK there are several sorts, which Pillow knows; it is silent about damage.
        decisions = check_cmyk(content)
    except DamagedJpeg as error:
        # Where Pillow sees the damage too, its words say more of it.
        _centre_square(image)
        raise BadImage(str(error)) from error
    except UnusualJpeg:
        decisions = ()
    if divided_by > 1:
        image.draft(None, (width // divided_by, height // divided_by))
    return Decoded(_centre_square(image), decisions)


def _has_frames(image: Image.Image) -> bool:
    """Whether there is more than the frame that was read; a damaged second frame is one too many all the same."""
    try:
        return bool(getattr(image, "is_animated", False))
    except _DECODING_ERRORS:
        return True


def centre_square(image: Image.Image, size: int) -> np.ndarray:
    """The centre square, [size, size, 3] uint8; only the square is scaled, so a long strip costs no memory."""
    return _scaled(_centre_square(image), size)


def _centre_square(image: Image.Image) -> np.ndarray:
    """[side, side, 3] uint8, unscaled; a view of nothing but itself."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(to_rgb(image.crop((left, top, left + side, top + side))))


def _square_of(pixels: np.ndarray) -> np.ndarray:
    """The centre square of [height, width, 3]: a view, cut where `_centre_square` cuts."""
    height, width, _ = pixels.shape
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return pixels[top : top + side, left : left + side]


def _scaled(pixels: np.ndarray, size: int) -> np.ndarray:
    # A copy: a view would keep the whole image in memory.
    return np.ascontiguousarray(resize.square(pixels, size))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB: the high byte of 16-bit grey, transparency on white, the rest as Pillow converts it."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if has_transparency(image):
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    return image.convert("RGB")
