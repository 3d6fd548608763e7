"""Images with changed bytes: Pillow's pixels, or refused. What no decoder looks at never costs an image."""

import io
import struct
import zlib

import numpy as np
import pytest
from fuzzing import fuzzed
from hypothesis import given, strategies as st
from pictures import encoded, smooth
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from workers.data.decoding import BadImage, decode, kept_pixels

pytestmark = pytest.mark.filterwarnings("ignore")
SIDE, SIZE = 48, 32
PICTURE = smooth(3, SIDE, SIDE + 5, corners=5)
EXIF = Image.Exif()
EXIF[0x010F] = "a maker"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
META = {"exif": EXIF.tobytes(), "icc_profile": PROFILE, "comment": b"a comment"}
JPEGS = {
    "plain": encoded(PICTURE, "JPEG", **META),
    "progressive": encoded(PICTURE, "JPEG", progressive=True, **META),
    "full chroma": encoded(PICTURE, "JPEG", subsampling=0, **META),
    "grey": encoded(PICTURE.convert("L"), "JPEG", **META),
    "restarts": encoded(PICTURE, "JPEG", restart_marker_blocks=3, **META),
    "CMYK": encoded(PICTURE.convert("CMYK"), "JPEG", **META),
}
_TEXT = PngImagePlugin.PngInfo()
_TEXT.add_text("Comment", "a comment", zip=True)
_TEXT.add_itxt("Title", "a title")
PNGS = {
    "RGB": encoded(PICTURE, "PNG", pnginfo=_TEXT, icc_profile=PROFILE),
    "palette": encoded(PICTURE.quantize(), "PNG", pnginfo=_TEXT, icc_profile=PROFILE),
    "alpha": encoded(PICTURE.convert("RGBA"), "PNG", pnginfo=_TEXT, icc_profile=PROFILE),
}
_SOS, _APP14, _COM = 0xDA, 0xEE, 0xFE
_IGNORED = {*range(0xE0, 0xF0), _COM} - {_APP14}
_TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}


def segments(jpeg):
    """The start, end and marker of each segment before the first scan's data."""
    at, found = 2, []
    while True:
        marker, end = jpeg[at + 1], at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        found.append((at, end, marker))
        if marker == _SOS:
            return found
        at = end


def chunks(png):
    at, found = 8, []
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        found.append((at, end, png[at + 4 : at + 8]))
        at = end
    return found


def ours(content):
    try:
        return decode(content, SIZE).pixels
    except BadImage as error:
        assert "\n" not in str(error)
        return None


def pillows(content, *, upright=True):
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return kept_pixels(ImageOps.exif_transpose(image) if upright else image, SIZE)
    except Exception:  # noqa: BLE001 - whatever Pillow raises is a refusal
        return None


def is_one_of(pixels, *wanted):
    return any(each is not None and np.array_equal(pixels, each) for each in wanted)


@pytest.mark.slow
@given(data=st.data(), kind=st.sampled_from(sorted(JPEGS)))
@fuzzed(600)
def test_jpeg_with_a_changed_header_has_pillow_s_pixels_or_is_refused(data, kind):
    jpeg = JPEGS[kind]
    start, end, marker = data.draw(st.sampled_from(segments(jpeg)))
    how = data.draw(st.sampled_from(("bytes", "stray", "gone")))
    if how == "stray":
        stray = data.draw(st.binary(min_size=1, max_size=5)).replace(b"\xff", b"\0")
        changed = jpeg[:start] + stray + jpeg[start:]
    elif how == "gone":
        changed = jpeg[:start] + jpeg[end:]
    else:
        # The length stays: with another the rest of the header is read as something else.
        at = data.draw(st.lists(st.integers(start + 4, end - 1), min_size=1, max_size=4)) if end > start + 4 else []
        content = bytearray(jpeg)
        for each in at:
            content[each] = data.draw(st.integers(0, 255))
        changed = bytes(content)
    pixels, expected, lying = ours(changed), pillows(changed), pillows(changed, upright=False)
    # After stray bytes Pillow itself misses the segment that says how CMYK is meant.
    plain = pillows(jpeg) if how == "stray" else None
    if pixels is not None and not (marker in _IGNORED and expected is None):
        assert is_one_of(pixels, expected, lying, plain)
    if (marker in _IGNORED and how != "stray") or (how == "stray" and start > 2):
        assert pixels is not None or expected is None


@given(data=st.data(), kind=st.sampled_from(sorted(JPEGS)))
@fuzzed(300)
def test_jpeg_with_a_changed_scan_has_pillow_s_pixels_or_is_refused(data, kind):
    jpeg = JPEGS[kind]
    _, first, _ = segments(jpeg)[-1]
    changed = bytearray(jpeg)
    for at in data.draw(st.lists(st.integers(first, len(jpeg) - 1), min_size=1, max_size=4)):
        changed[at] = data.draw(st.integers(0, 255))
    content = bytes(changed)
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(first, len(jpeg) - 1))]
    pixels = ours(content)
    assert pixels is None or is_one_of(pixels, pillows(content), pillows(content, upright=False))


@given(data=st.data(), kind=st.sampled_from(sorted(PNGS)), checked=st.booleans())
@fuzzed(500)
def test_png_with_a_changed_chunk_has_pillow_s_pixels_or_is_refused(data, kind, checked):
    png = PNGS[kind]
    start, end, name = data.draw(st.sampled_from(chunks(png)))
    body = bytearray(png[start + 8 : end - 4])
    for at in data.draw(st.lists(st.integers(0, max(0, len(body) - 1)), min_size=1, max_size=4)) if body else []:
        body[at] = data.draw(st.integers(0, 255))
    check = zlib.crc32(name + body) if checked else zlib.crc32(png[start + 4 : end - 4])
    content = png[: start + 8] + bytes(body) + struct.pack(">I", check) + png[end:]
    pixels = ours(content)
    if name in _TEXTS:
        assert is_one_of(pixels, pillows(png))
    elif pixels is not None:
        assert is_one_of(pixels, pillows(content), pillows(content, upright=False))
