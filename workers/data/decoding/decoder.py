"""Decodes one image file to RGB pixels whose shorter side is `size`: the centre square, or the whole image."""

import io
import stat
import struct
import threading
import zlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from workers.data.decoding.decisions import WIDE, Decision, decisions_of, has_transparency
from workers.data.decoding.formats import FORMATS, format_of, readers_of
from workers.data.decoding.headers import plain_header
from workers.data.decoding.jpeg import DamagedJpeg, Decoded, UnusualJpeg, check_cmyk, decode_divided, divisor
from workers.data.decoding.orientation import UPRIGHT, Turn, orientation_of, turn_of
from workers.kernels import resize
from workers.settings import LARGEST_MAX_PIXELS, MAX_PIXELS, Exif, Keep

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
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
# A JPEG is decoded at a fraction of its resolution if its sides still have this many times the wanted pixels.
_DRAFT_FACTOR = 2
_STRIP_PIXELS = 1 << 20
# Images of more pixels, which take up to 7 bytes each, are decoded one at a time.
_LARGE_PIXELS = 24_000_000
_one_large = threading.Lock()
# Pillow calls a JPEG that is followed by previews MPO.
_JPEGS = ("JPEG", "MPO")
# White in images whose pixels have no fixed range.
_WHITES = (1, 255, 65535)
_TILE_WIDTH, _TILE_LENGTH = 322, 323
# The longer side of a whole image, in shorter ones. The rest of a panorama is cut off: it takes the memory of many.
_LONGEST = 4
_TOO_LARGE = "{} pixels are more than datasets.<name>.max_pixels={} allows"
# Pillow's limit is the process's, and each dataset has its own, with which every image is compared when it is opened.
Image.MAX_IMAGE_PIXELS = LARGEST_MAX_PIXELS


class BadImage(Exception):
    """An image that cannot be read; the message is the reason."""


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: [height, width, 3] uint8 of `stored_shape`.
        width, height: of the original in pixels, as it is shown: a quarter turn by EXIF swaps them if it is applied.
        decisions: the ways in which the file differs from a plain RGB image of its name's format.
    """

    pixels: np.ndarray
    width: int
    height: int
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class Rules:
    """A dataset's choices about decoding: whether EXIF turns images, the most pixels of one, and what is kept of it."""

    exif: Exif = Exif.apply
    max_pixels: int = MAX_PIXELS
    keep: Keep = Keep.centre


RULES = Rules()


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


def _kept_sides(width: int, height: int, keep: Keep) -> tuple[int, int]:
    """Returns width and height of the part of an image, around its centre, that is kept."""
    most = min(width, height) * (_LONGEST if keep is Keep.whole else 1)
    return min(width, most), min(height, most)


def stored_shape(width: int, height: int, size: int, keep: Keep) -> tuple[int, int]:
    """Returns height and width to which an original is scaled, in pixels; an unreadable one, 0 × 0, is a square."""
    kept, side = _kept_sides(width, height, keep), min(width, height)
    across, down = ((2 * each * size + side) // (2 * side) for each in kept) if side else (size, size)
    return down, across


def decode(content: bytes, size: int, name: str = "", rules: Rules = RULES) -> Picture:
    """Decodes an image, scales its shorter side to `size` (antialiased bicubic) and keeps what `rules.keep` says.

    Of several frames, the first is used. An image that cannot be decoded is decoded again without the odd parts of its
    header (`plain_header`), just as strictly.

    Args:
        content: the bytes of the file.
        size: shorter side of the result in pixels.
        name: the file's name; the decisions say if its extension names another format.
        rules: the dataset's choices.

    Raises:
        BadImage: the image is truncated, damaged or too large, or its format is not supported.
    """
    try:
        return _decode(content, size, name, rules)
    except BadImage:
        plain = plain_header(content)
        if plain == content:
            raise
    picture = _decode(plain, size, name, rules)
    return replace(picture, decisions=(*picture.decisions, Decision.odd_header))


def _decode(content: bytes, size: int, name: str, rules: Rules) -> Picture:
    kind = format_of(content)
    readers = readers_of(kind)
    if not readers:
        raise BadImage(f"{kind}, which needs pillow-heif: pip install 'septet[heic]'")
    try:
        with Image.open(io.BytesIO(content), formats=readers) as image:
            return _picture(image, content, size, name, rules)
    except UnidentifiedImageError as error:
        if kind is None:
            raise BadImage("not an image") from error
        supported = kind in FORMATS or readers != FORMATS
        other = f"not supported; convert it to {' or '.join(FORMATS[:2])}"
        raise BadImage(f"{kind}, {'its header is damaged or cut off' if supported else other}") from error
    except Image.DecompressionBombError as error:
        raise BadImage(_TOO_LARGE.format(f"over {LARGEST_MAX_PIXELS}", rules.max_pixels)) from error
    except _DECODING_ERRORS as error:
        raise BadImage(" ".join(str(error).split()) or type(error).__name__) from error


def _picture(image: Image.Image, content: bytes, size: int, name: str, rules: Rules) -> Picture:
    width, height = image.size
    tags = getattr(image, "tag_v2", {})
    # A tile of a TIFF is decoded whole.
    num_pixels = max(width * height, tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_LENGTH, 0))
    if num_pixels > rules.max_pixels:
        raise BadImage(_TOO_LARGE.format(num_pixels, rules.max_pixels))
    decisions = decisions_of(image, name)
    orientation = orientation_of(image)
    applied = rules.exif is Exif.apply
    with _alone(image, size):
        if image.format in _JPEGS:
            turn = turn_of(orientation, wanted=applied)
            decoded = _jpeg_pixels(image, content, size, turn, rules.keep)
        else:
            image.load()
            # Only now is the EXIF behind a PNG's pixels known. A TIFF was turned, and its orientation is gone.
            orientation = max(orientation, orientation_of(image))
            turn = turn_of(orientation, wanted=applied, done=image.format == "TIFF")
            decoded = Decoded(_kept(image, turn, rules.keep))
    decisions += decoded.decisions
    if orientation > 1:
        decisions += (Decision.turned if applied else Decision.not_turned,)
    if _has_frames(image):
        decisions += (Decision.first_frame,)
    if turn.swap:
        width, height = height, width
    if rules.keep is Keep.whole and max(width, height) > _LONGEST * min(width, height):
        decisions += (Decision.ends_cut,)
    return Picture(_scaled(decoded.pixels, stored_shape(width, height, size, rules.keep)), width, height, decisions)


def _alone(image: Image.Image, size: int) -> AbstractContextManager[object]:
    """Returns the lock for decoding an image that takes much memory."""
    held = image.width * image.height
    # Of a progressive JPEG, libjpeg keeps all coefficients; one in CMYK is checked whole.
    if held > _LARGE_PIXELS and image.format in _JPEGS and image.mode != "CMYK" and "progressive" not in image.info:
        held //= divisor(image.width, image.height, _DRAFT_FACTOR * size) ** 2
    return _one_large if held > _LARGE_PIXELS else nullcontext()


def _jpeg_pixels(image: Image.Image, content: bytes, size: int, turn: Turn, keep: Keep) -> Decoded:
    """Returns what is kept of an opened JPEG, not yet scaled; raises BadImage if libjpeg finds damage."""
    width, height = image.size
    divided_by = divisor(width, height, _DRAFT_FACTOR * size)

    def by_pillow() -> np.ndarray:
        if divided_by > 1:
            image.draft(None, (width // divided_by, height // divided_by))
        return _kept(image, turn, keep)

    try:
        if image.mode in ("RGB", "L"):
            decoded = decode_divided(content, width, height, divided_by)
            return replace(decoded, pixels=_part_of(decoded.pixels, turn, keep))
        # Pillow knows the several kinds of CMYK, but does not report damage.
        decisions = check_cmyk(content)
    except DamagedJpeg as error:
        # If Pillow notices the damage too, its message says more.
        by_pillow()
        raise BadImage(str(error)) from error
    except UnusualJpeg:
        decisions = ()
    return Decoded(by_pillow(), decisions)


def _has_frames(image: Image.Image) -> bool:
    """Returns whether the image has more than one frame; a damaged second frame counts."""
    try:
        return bool(getattr(image, "is_animated", False))
    except _DECODING_ERRORS:
        return True


def kept_pixels(image: Image.Image, size: int, keep: Keep = Keep.centre) -> np.ndarray:
    """Returns what is kept of an image, uint8 of `stored_shape`; scales no more than that, to save memory on strips."""
    return _scaled(_kept(image, UPRIGHT, keep), stored_shape(*image.size, size, keep))


def _kept(image: Image.Image, turn: Turn, keep: Keep) -> np.ndarray:
    """Returns a copy of the unscaled part of the turned image that is kept, [height, width, 3] uint8."""
    width, height = sides = _kept_sides(*image.size, keep)
    left, top = turn.corner(image.size, sides)
    white = _white_of(image) if image.mode in WIDE else 0
    pixels = np.empty((*(sides if turn.swap else sides[::-1]), 3), np.uint8)
    in_file_order = turn.in_file_order(pixels)
    # In strips: the steps to RGB take up to 20 bytes a pixel.
    rows = max(1, _STRIP_PIXELS // width)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        strip = image.crop((left, top + start, left + width, top + stop))
        in_file_order[start:stop] = np.asarray(to_rgb(strip, white))
    return pixels


def _part_of(pixels: np.ndarray, turn: Turn, keep: Keep) -> np.ndarray:
    """Returns the part of [height, width, 3] that is kept, the same as `_kept`'s; upright, as a view."""
    height, width, _ = pixels.shape
    sides = _kept_sides(width, height, keep)
    left, top = turn.corner((width, height), sides)
    part = pixels[top : top + sides[1], left : left + sides[0]]
    if turn == UPRIGHT:
        return part
    shown = np.empty((*(sides if turn.swap else sides[::-1]), 3), np.uint8)
    turn.in_file_order(shown)[:] = part
    return shown


def _white_of(image: Image.Image) -> int:
    """Returns the level that is white in an image of whole numbers or floats, from its largest."""
    least, most = np.asarray(image.getextrema(), float)
    white = next((each for each in _WHITES if 0 <= least <= most <= each), 0)
    if not white:
        raise BadImage(f"levels from {least:g} to {most:g} have no known white; convert it to 8 or 16 bits a channel")
    return white


def _scaled(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    # Copied, because a view would keep the whole image in memory.
    return np.ascontiguousarray(resize.to_shape(pixels, shape))


def to_rgb(image: Image.Image, white: int = 0) -> Image.Image:
    """Converts any mode to RGB: the high byte of 16-bit grey, transparency on white, the rest as Pillow does it.

    `white` is the level that becomes 255 in an image of whole numbers or floats.
    """
    if image.mode in WIDE:
        levels = np.asarray(image) * (255 / white)
        if np.isnan(levels).any():
            raise BadImage("some levels are not a number; convert it to 8 or 16 bits a channel")
        return Image.fromarray(np.rint(levels).astype(np.uint8)).convert("RGB")
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if has_transparency(image):
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    return image.convert("RGB")
