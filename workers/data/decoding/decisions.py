"""Decisions about images that are readable, but not the plain RGB image that their name says."""

from enum import StrEnum
from pathlib import PurePath

from PIL import Image

from workers.data.decoding.formats import FORMATS


class Decision(StrEnum):
    """One decision; the text goes into the store's manifest and is shown to the user."""

    cmyk = "CMYK, converted to RGB"
    grey = "grey, its level in all three channels"
    sixteen_bits = "16 bits a channel, the high byte kept"
    wide = "32 or 64 bits a pixel, with white at 1, 255 or 65535, the first that no pixel exceeds"
    palette = "palette, its colours looked up"
    transparency = "transparency, laid on white"
    other_mode = "another colour space, converted to RGB"
    first_frame = "several frames, the first kept"
    turned = "EXIF orientation, applied"
    not_turned = "EXIF orientation, not applied"
    ends_cut = "longer than four times its shorter side, both ends cut off"
    stray_bytes = "stray bytes inside the JPEG, skipped"
    odd_header = "odd header or metadata that affects no pixel, skipped"
    jpeg_renamed = "JPEG under another format's name"
    png_renamed = "PNG under another format's name"
    bmp_renamed = "BMP under another format's name"
    gif_renamed = "GIF under another format's name"
    webp_renamed = "WEBP under another format's name"
    tiff_renamed = "TIFF under another format's name"
    avif_renamed = "AVIF under another format's name"
    heif_renamed = "HEIF under another format's name"


_FORMAT_OF = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIF"),
    **{f".{kind.lower()}": kind for kind in ("PNG", "GIF", "WEBP", "ICO", "PPM", "AVIF")},
    # TIFFs of a camera, whose first page is a small preview.
    **dict.fromkeys((".dng", ".nef", ".cr2", ".arw", ".pef", ".srw"), "raw"),
}
# Extensions of the formats that can be read.
SUFFIXES = tuple(sorted(suffix for suffix, kind in _FORMAT_OF.items() if kind in (*FORMATS, "HEIF")))
_BY_MODE = {
    "CMYK": Decision.cmyk,
    **dict.fromkeys(("1", "L", "LA", "La"), Decision.grey),
    **dict.fromkeys(("P", "PA"), Decision.palette),
}
# Whole numbers and floats of no fixed range.
WIDE = ("I", "F")
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")


def has_transparency(image: Image.Image) -> bool:
    """Returns whether some of the image may be transparent."""
    return image.mode in _WITH_ALPHA or "transparency" in image.info


def decisions_of(image: Image.Image, name: str) -> tuple[Decision, ...]:
    """Returns the decisions that the header of an opened image called `name` requires.

    Those about frames, orientation and libjpeg's warnings come later.
    """
    found = []
    if image.mode in WIDE:
        found += [Decision.grey, Decision.wide]
    elif image.mode.startswith("I"):
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
    # Pillow calls a JPEG that is followed by a preview MPO.
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    if _FORMAT_OF.get(PurePath(name).suffix.lower(), kind) != kind:
        found.append(Decision(f"{kind} under another format's name"))
    return tuple(found)
