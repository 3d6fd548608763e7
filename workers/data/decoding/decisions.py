"""Decisions about images that are readable, but not the plain RGB image that their name says."""

import struct
from enum import StrEnum
from pathlib import PurePath

from PIL import Image


class Decision(StrEnum):
    """One decision; the text goes into the store's manifest and is shown to the user."""

    cmyk = "CMYK, converted to RGB"
    grey = "grey, its level in all three channels"
    sixteen_bits = "16 bits a channel, the high byte kept"
    palette = "palette, its colours looked up"
    transparency = "transparency, laid on white"
    other_mode = "another colour space, converted to RGB"
    first_frame = "several frames, the first kept"
    orientation = "EXIF orientation, not applied"
    stray_bytes = "stray bytes inside the JPEG, skipped"
    odd_scan = "odd values in the JPEG's scan header, ignored"
    jpeg_renamed = "JPEG under another format's name"
    png_renamed = "PNG under another format's name"
    bmp_renamed = "BMP under another format's name"
    gif_renamed = "GIF under another format's name"
    webp_renamed = "WEBP under another format's name"


_FORMAT_OF = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **{f".{kind.lower()}": kind for kind in ("PNG", "GIF", "WEBP", "ICO", "PPM", "HEIC", "AVIF")},
}
_BY_MODE = {
    "CMYK": Decision.cmyk,
    **dict.fromkeys(("1", "L", "LA", "La"), Decision.grey),
    **dict.fromkeys(("P", "PA"), Decision.palette),
}
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
_ORIENTATION_TAG = 0x0112
_SHORT = 3


def has_transparency(image: Image.Image) -> bool:
    """Returns whether some of the image may be transparent."""
    return image.mode in _WITH_ALPHA or "transparency" in image.info


def decisions_of(image: Image.Image, name: str) -> tuple[Decision, ...]:
    """Returns the decisions that the header of an opened image called `name` requires.

    Those about frames and libjpeg's warnings come later.
    """
    found = []
    if image.mode.startswith(("I", "F")):
        found += [Decision.grey, Decision.sixteen_bits]
    elif image.mode in _BY_MODE:
        found.append(_BY_MODE[image.mode])
    elif image.mode not in ("RGB", "RGBA", "RGBa"):
        found.append(Decision.other_mode)
    # Pillow gives some 16-bit images an ordinary mode, and drops their low bytes.
    deep = any(isinstance(tile.args, str) and ";16" in tile.args for tile in getattr(image, "tile", ()))
    if deep and Decision.sixteen_bits not in found:
        found.append(Decision.sixteen_bits)
    if has_transparency(image):
        found.append(Decision.transparency)
    if _orientation(image.info.get("exif")) > 1:
        found.append(Decision.orientation)
    # Pillow calls a JPEG that is followed by a preview MPO.
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    if _FORMAT_OF.get(PurePath(name).suffix.lower(), kind) != kind:
        found.append(Decision(f"{kind} under another format's name"))
    return tuple(found)


def _orientation(exif: object) -> int:
    """Returns the orientation in a block of EXIF, 1 if there is none or the block is damaged.

    Pillow's reader would warn of damaged blocks, which are common in photographs and affect no pixel.
    """
    if not isinstance(exif, bytes):
        return 1
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "4xL", tiff)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHLH", tiff, start + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG and kind == _SHORT:
                return int(value)
    except struct.error:
        return 1
    return 1
