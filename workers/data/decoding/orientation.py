"""The EXIF orientation of an image, and the turn that shows it upright."""

import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image

_TAG = 0x0112
# The types that writers use for it: byte, short, long.
_CODES = {1: "B", 3: "H", 4: "L"}


@dataclass(frozen=True)
class Turn:
    """The way from the file's pixels to the shown ones: columns and rows are reversed, then swapped."""

    columns: bool = False
    rows: bool = False
    swap: bool = False

    def corner(self, sides: tuple[int, int], kept: tuple[int, int]) -> tuple[int, int]:
        """Returns left and top, in the file's pixels, of the shown image's centre; sides are (width, height)."""
        return (sides[0] - kept[0] + self.columns) // 2, (sides[1] - kept[1] + self.rows) // 2

    def in_file_order(self, shown: np.ndarray) -> np.ndarray:
        """Returns a view of the shown pixels [height, width, 3], to be filled with the file's."""
        swapped = shown.swapaxes(0, 1) if self.swap else shown
        return swapped[:: -1 if self.rows else 1, :: -1 if self.columns else 1]


UPRIGHT = Turn()
_TURNS = {
    2: Turn(columns=True),
    3: Turn(columns=True, rows=True),
    4: Turn(rows=True),
    5: Turn(swap=True),
    6: Turn(rows=True, swap=True),
    7: Turn(columns=True, rows=True, swap=True),
    8: Turn(columns=True, swap=True),
}
# Quarter turns undo each other, all others themselves.
_BACK = {6: 8, 8: 6}


def turn_of(orientation: int, *, wanted: bool, done: bool = False) -> Turn:
    """Returns the turn that an orientation of 1…8 asks for, if it is wanted; if it was done unwanted, the one back."""
    if wanted == done:
        return UPRIGHT
    return _TURNS.get(orientation if wanted else _BACK.get(orientation, orientation), UPRIGHT)


def orientation_of(image: Image.Image) -> int:
    """Returns the orientation, 1…8, of an opened image; 1 if it has none or its EXIF is damaged."""
    value = getattr(image, "tag_v2", {}).get(_TAG) or _in_exif(image.info.get("exif"))
    return value if value in _TURNS else 1


def _in_exif(exif: object) -> int:
    """Reads a block of EXIF. Pillow's reader would warn of damaged ones, which are common and affect no pixel."""
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
            at = start + 2 + 12 * entry
            tag, kind = struct.unpack_from(order + "HH", tiff, at)
            if tag == _TAG and kind in _CODES:
                return int(struct.unpack_from(order + _CODES[kind], tiff, at + 8)[0])
    except struct.error:
        return 1
    return 1
