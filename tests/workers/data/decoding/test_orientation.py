"""EXIF orientation: the square is that of Pillow's exif_transpose, in every format, or the file's own."""

import io

import numpy as np
import pytest
from pictures import encoded, noise, smooth
from PIL import Image, ImageOps

from workers.data.decoding import Rules, decode, decoder
from workers.data.decoding.decisions import Decision
from workers.settings import Exif

IGNORED = Rules(Exif.ignore)
TAG = 0x0112
FORMATS = {
    "JPEG": {"quality": 95},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "TIFF, deflated": {"compression": "tiff_adobe_deflate"},
    "AVIF": {},
}


def tagged(image: Image.Image, kind: str, orientation: int, **options: object) -> bytes:
    exif = Image.Exif()
    exif[TAG] = orientation
    return encoded(image, kind, exif=exif, **options)


def centre(image: Image.Image, size: int) -> np.ndarray:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.convert("RGB").crop((left, top, left + side, top + side))
    return np.asarray(square if side == size else square.resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", [16, 7])
@pytest.mark.parametrize("sides", [(16, 16), (16, 19), (19, 16), (16, 20), (21, 16)])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_orientation_gives_the_square_of_exif_transpose(kind, sides, size):
    name = kind.split(",")[0]
    for orientation in range(1, 9):
        content = tagged(noise(orientation, *sides), name, orientation, **FORMATS[kind])
        shown = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        picture = decode(content, size)
        np.testing.assert_array_equal(picture.pixels, centre(shown, size))
        assert (picture.width, picture.height) == shown.size == (sides[::-1] if orientation > 4 else sides)
        assert picture.decisions == ((Decision.turned,) if orientation > 1 else ())
        kept = decode(content, size, "", IGNORED)
        stored = encoded(noise(orientation, *sides), name, **FORMATS[kind])
        np.testing.assert_array_equal(kept.pixels, decode(stored, size).pixels)
        assert (kept.width, kept.height) == sides
        assert kept.decisions == ((Decision.not_turned,) if orientation > 1 else ())


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_jpeg_of_reduced_size_is_turned_as_pillow_turns_what_it_reduced(orientation, mode):
    content = tagged(smooth(3, 170, 131).convert(mode), "JPEG", orientation)
    image = Image.open(io.BytesIO(content))
    image.draft(None, (170 // 4, 131 // 4))
    np.testing.assert_array_equal(decode(content, 16).pixels, centre(ImageOps.exif_transpose(image), 16))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_strips_are_turned_to_the_same_pixels(orientation, monkeypatch):
    content = tagged(noise(4, 47, 60), "PNG", orientation)
    whole = decode(content, 20).pixels
    monkeypatch.setattr(decoder, "_STRIP_PIXELS", 47 * 10)
    np.testing.assert_array_equal(decode(content, 20).pixels, whole)


def test_exif_behind_the_pixels_of_a_png_counts():
    content = tagged(noise(5, 16, 20), "PNG", 6)
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    late = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    assert decode(late, 16).decisions == (Decision.turned,)
    np.testing.assert_array_equal(decode(late, 16).pixels, decode(content, 16).pixels)


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_unknown_orientation_is_none(orientation):
    content = tagged(noise(6, 16, 20), "JPEG", orientation)
    assert decode(content, 16).decisions == ()
