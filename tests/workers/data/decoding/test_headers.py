"""Odd headers that affect no pixel: the image is read, with Pillow's pixels, and listed; damage stays refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from bad_files import odd_scan, png
from pictures import encoded, smooth
from PIL import Image

from workers.data.decoding import BadImage, decode
from workers.data.decoding.decisions import Decision
from workers.data.decoding.headers import plain_header

SIZE = 32
# Pillow's reader would warn of some of these.
pytestmark = pytest.mark.filterwarnings("ignore")
PHOTO = smooth(1, 300, 303)


def photo(**options: object) -> bytes:
    return encoded(PHOTO, "JPEG", **{"quality": 90, **options})


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def jfif(body: bytes) -> bytes:
    """The photograph with another JFIF segment, whose body is 14 bytes in what Pillow writes."""
    content = photo()
    assert content[2:4] == b"\xff\xe0"
    return content[:2] + segment(0xE0, body) + content[20:]


def before(marker: int, extra: bytes, content: bytes | None = None) -> bytes:
    content = content or photo()
    at = content.index(bytes((0xFF, marker)))
    return content[:at] + extra + content[at:]


def adobe(transform: int, content: bytes, *, keep_jfif: bool = False) -> bytes:
    start = 20 if content[2:4] == b"\xff\xe0" and not keep_jfif else 2
    return content[:2] + segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes((transform,))) + content[start:]


def cmyk() -> bytes:
    content = encoded(PHOTO.convert("CMYK"), "JPEG", quality=90)
    # Without Pillow's own Adobe segment.
    at = content.index(b"\xff\xee")
    return content[:at] + content[at + 2 + int.from_bytes(content[at + 2 : at + 4], "big") :]


def icc(number: int, count: int) -> bytes:
    return segment(0xE2, b"ICC_PROFILE\0" + bytes((number, count)) + b"profile" * 9)


def pillow(content: bytes, divided_by: int = 4) -> np.ndarray:
    """The pixels that Pillow makes of it, at the scale at which it is decoded here."""
    image = Image.open(io.BytesIO(content))
    image.draft(None, (image.width // divided_by, image.height // divided_by))
    side = image.width
    top = (image.height - side) // 2
    square = image.crop((0, top, side, top + side)).convert("RGB")
    return np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


ODD = {
    "revision 0.00": jfif(b"JFIF\0\0\0\1\0\x48\0\x48\0\0"),
    "revision 2.01": jfif(b"JFIF\0\2\1\1\0\x48\0\x48\0\0"),
    "stray before DQT": before(0xDB, b"abcd"),
    "stray before SOF": before(0xC0, b"\0\0\0"),
    "stray before DHT": before(0xC4, b"stray \xff\0 bytes"),
    "stray before SOS": before(0xDA, b"x" * 70_000),
    "stray in a progressive one": before(0xDB, b"abcd", photo(progressive=True)),
    "stray in a grey one": before(0xDB, b"abcd", encoded(PHOTO.convert("L"), "JPEG")),
    "unknown Adobe transform": adobe(9, photo()),
    "unknown Adobe transform of CMYK": adobe(7, cmyk()),
    "stray in CMYK": before(0xC0, b"abcd", cmyk()),
    "missing ICC chunk": before(0xDB, icc(1, 3)),
    "ICC chunk with number 0": before(0xDB, icc(0, 1)),
    "two ICC chunks with one number": before(0xDB, icc(1, 2) + icc(1, 2)),
    "scan values": odd_scan(photo()),
    "all of them": odd_scan(before(0xDB, b"abc" + icc(2, 3), jfif(b"JFIF\0\0\0\1\0\x48\0\x48\0\0"))),
}
# Pillow refuses them, or reads them without a word.
ODD_FOR_PILLOW = {
    "short JFIF": jfif(b"JFIF\0"),
    "short ICC chunk": before(0xDB, segment(0xE2, b"ICC_PROFILE\0")),
    "short Adobe": before(0xDB, segment(0xEE, b"Adobe")),
    "damaged Photoshop block": before(0xDB, segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4")),
}
NOT_ODD = {
    "density 0": jfif(b"JFIF\0\1\1\7\0\0\0\0\0\0"),
    "a thumbnail that is not there": jfif(b"JFIF\0\1\1\0\0\1\0\1\x50\x50"),
    "empty comment": before(0xDB, segment(0xFE, b"")),
    "comment of any bytes": before(0xDB, segment(0xFE, bytes(range(256)) * 9)),
    "comment of impossible length": before(0xDB, b"\xff\xfe\0\0"),
    "damaged EXIF": photo(exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"),
    "repeated FF": before(0xDB, b"\xff\xff\xff"),
    "known Adobe transform": adobe(1, photo()),
    "Adobe transform unknown beside JFIF": adobe(9, photo(), keep_jfif=True),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_jpeg_header_is_read_with_pillows_pixels_and_listed(name):
    picture = decode(ODD[name], SIZE)
    assert Decision.odd_header in picture.decisions
    assert (picture.width, picture.height) == PHOTO.size
    np.testing.assert_array_equal(picture.pixels, pillow(ODD[name]))


@pytest.mark.parametrize("name", ODD_FOR_PILLOW)
def test_jpeg_whose_metadata_pillow_refuses_is_read_and_listed(name):
    picture = decode(ODD_FOR_PILLOW[name], SIZE)
    assert picture.decisions == (Decision.odd_header,)
    np.testing.assert_array_equal(picture.pixels, decode(photo(), SIZE).pixels)


@pytest.mark.parametrize("name", NOT_ODD)
def test_jpeg_metadata_that_libjpeg_accepts_is_no_decision(name):
    picture = decode(NOT_ODD[name], SIZE)
    assert picture.decisions == ()
    np.testing.assert_array_equal(picture.pixels, pillow(NOT_ODD[name]))


@pytest.mark.parametrize("name", ["revision 0.00", "stray before DQT", "missing ICC chunk", "unknown Adobe transform"])
def test_an_odd_header_excuses_no_damage_in_the_scan(name):
    content = ODD[name]
    scan = content.index(b"\xff\xda") + 14
    middle = (scan + len(content)) // 2
    for damaged in (
        content[:middle],
        content[:-2],
        content[:middle] + b"\xff\xd9",
        content[:middle] + b"\xff\xe0\0\4ab" + content[middle:],
        content[:scan] + b"\xff\xd0" + content[scan:],
    ):
        with pytest.raises(BadImage):
            decode(damaged, SIZE)


def test_plain_header_keeps_orientation_and_colours_and_changes_nothing_twice():
    exif = Image.Exif()
    exif[0x0112] = 6
    for content in (*ODD.values(), *ODD_FOR_PILLOW.values(), before(0xDB, b"abcd", photo(exif=exif))):
        plain = plain_header(content)
        assert plain != content and plain_header(plain) == plain
    turned = decode(before(0xDB, b"abcd", photo(exif=exif)), SIZE)
    assert turned.decisions == (Decision.turned, Decision.odd_header)
    assert (turned.width, turned.height) == PHOTO.size[::-1]
    # Components without JFIF and with transform 0 are RGB: JFIF must stay away or stay.
    rgb = adobe(0, photo())
    stray = before(0xDB, b"abcd", rgb)
    np.testing.assert_array_equal(decode(stray, SIZE).pixels, decode(rgb, SIZE).pixels)
    assert not np.array_equal(decode(rgb, SIZE).pixels, decode(photo(), SIZE).pixels)


def test_plain_header_leaves_what_has_no_scan():
    for content in (b"", b"\xff\xd8", photo()[:30], b"GIF89a", b"\xff\xd8\xff\xd9" + photo()):
        assert plain_header(content) == content


def chunk(name: bytes, data: bytes, *, damaged: bool = False) -> bytes:
    checksum = zlib.crc32(name + data) ^ damaged
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


SMALL = encoded(smooth(2, SIZE, SIZE))
LARGE_TEXT = zlib.compress(bytes(3 << 20), 9)
CHUNKS = {
    "zTXt of 3 MB": chunk(b"zTXt", b"Comment\0\0" + LARGE_TEXT),
    "iTXt of 3 MB": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LARGE_TEXT),
    "iCCP of 3 MB": chunk(b"iCCP", b"icc\0\0" + LARGE_TEXT),
    "iCCP of an unknown method": chunk(b"iCCP", b"icc\0\7abc"),
    "short iCCP": chunk(b"iCCP", b"icc\0"),
    "damaged tEXt": chunk(b"tEXt", b"Comment\0hello", damaged=True),
    "damaged zTXt": chunk(b"zTXt", b"Comment\0\7hello"),
    "damaged eXIf": chunk(b"eXIf", b"II*\0", damaged=True),
    "short gAMA": chunk(b"gAMA", b"\0"),
    "short pHYs": chunk(b"pHYs", b"\0"),
}


@pytest.mark.parametrize("place", ["before IDAT", "after IDAT"])
@pytest.mark.parametrize("name", CHUNKS)
def test_png_metadata_never_counts_against_the_image(name, place):
    at = 33 if place == "before IDAT" else len(SMALL) - 12
    picture = decode(SMALL[:at] + CHUNKS[name] + SMALL[at:], SIZE)
    # Pillow itself passes over some of them behind the pixels.
    assert picture.decisions == (Decision.odd_header,) or (place == "after IDAT" and "damaged" in name)
    np.testing.assert_array_equal(picture.pixels, decode(SMALL, SIZE).pixels)


def test_png_text_of_any_total_size_is_skipped():
    text = chunk(b"tEXt", b"Comment\0" + bytes(900_000)) + chunk(b"zTXt", b"C\0\0" + zlib.compress(bytes(900_000)))
    picture = decode(SMALL[:33] + text * 80 + SMALL[33:], SIZE)
    np.testing.assert_array_equal(picture.pixels, decode(SMALL, SIZE).pixels)


def test_png_damage_in_what_makes_pixels_stays_damage():
    palette = encoded(smooth(2, SIZE, SIZE).quantize(16), "PNG", transparency=0)
    text = CHUNKS["damaged tEXt"]
    for content, name in ((SMALL, b"IHDR"), (SMALL, b"IDAT"), (palette, b"PLTE"), (palette, b"tRNS")):
        odd = content[:33] + text + content[33:]
        assert decode(odd, SIZE).decisions[-1] == Decision.odd_header
        at = odd.index(name)
        length = int.from_bytes(odd[at - 4 : at], "big")
        # The name, the data, or the checksum; that of the pixels' last chunk repeats zlib's own, and Pillow skips it.
        for place in (at, at + 4 + length // 2, at + 4 + length)[: 2 if name == b"IDAT" else 3]:
            with pytest.raises(BadImage):
                decode(odd[:place] + bytes((odd[place] ^ 0x20,)) + odd[place + 1 :], SIZE)
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    short = png([(b"IHDR", header), (b"zTXt", b"C\0\7x"), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b"")])
    with pytest.raises(BadImage):
        decode(short, SIZE)
