"""One image file to `size` × `size` RGB pixels."""

import io
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from workers.data.listing import Picture

# Widely used and well fuzzed; the rest of Pillow's readers are a needless risk on files from elsewhere.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
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


class BadImage(Exception):
    """An image that cannot be read; the message is the reason."""


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


def decode(content: bytes, size: int) -> Picture:
    """Decodes an image, scales its shorter side to `size` (antialiased bicubic) and keeps the centre square.

    EXIF rotation is not applied. Of an animation the first frame counts.

    Raises:
        BadImage: truncated, too large to be meant, or no image of the allowed formats.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            # Pillow only warns of these, and a warning filter would be the whole process's.
            if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
                raise BadImage(f"{width} × {height} pixels are more than the {Image.MAX_IMAGE_PIXELS} allowed")
            scale = _DRAFT_FACTOR * size / min(width, height)
            if scale < 1:
                image.draft(None, (round(width * scale), round(height * scale)))
            return Picture(np.asarray(centre_square(image, size)), width, height)
    except UnidentifiedImageError as error:
        raise BadImage("not an image, or damaged at its start") from error
    except _DECODING_ERRORS as error:
        raise BadImage(" ".join(str(error).split()) or type(error).__name__) from error


def centre_square(image: Image.Image, size: int) -> Image.Image:
    """The centre square in RGB, scaled to `size`; only the square is scaled, so a long strip costs no memory."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = to_rgb(image.crop((left, top, left + side, top + side)))
    return square if side == size else square.resize((size, size), Image.Resampling.BICUBIC)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB: the high byte of 16-bit grey, transparency on white, the rest as Pillow converts it."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    return image.convert("RGB")
