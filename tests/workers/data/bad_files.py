"""Files of every kind that a data set from elsewhere may hold, with what has to be said of each."""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pictures import encoded, smooth
from PIL import Image

from workers.data.decoding.decisions import Decision

SIDE = 24


@dataclass(frozen=True)
class File:
    """A file's bytes, and the decisions about it, or words of the reason for which it is refused."""

    content: bytes
    decisions: tuple[Decision, ...] = ()
    refused: str | None = None


def photograph(seed: int, side: int = SIDE) -> Image.Image:
    """Smooth colours, none like another's."""
    return smooth(seed, side, side + 3)


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks, as an encoder of ours would never write it."""
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep_png() -> bytes:
    """RGB of 16 bits a channel, which Pillow reads but does not write."""
    lines = np.zeros((SIDE, 1 + SIDE * 6), np.uint8)
    lines[:, 1:] = np.arange(SIDE * 6)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)
    return png([(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b"")])


def odd_scan(jpeg: bytes) -> bytes:
    """The JPEG with a progressive scan's values in its scan's header, as some cameras write it."""
    start = jpeg.index(b"\xff\xda") + 2
    end = start + int.from_bytes(jpeg[start : start + 2], "big")
    return jpeg[: end - 2] + b"\0" + jpeg[end - 1 :]


def bombs(side: int) -> Mapping[str, bytes]:
    """Small files of `side` × `side` pixels."""
    plain = encoded(Image.new("RGB", (16, 16)), "JPEG")
    size = plain.index(b"\xff\xc0") + 5
    jpeg = plain[:size] + struct.pack(">HH", side, side) + plain[size + 4 :]
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    packed = zlib.compress(bytes((side // 8 + 1) * min(side, 4000)), 9)
    gif = bytearray(encoded(Image.new("P", (8, 8)), "GIF"))
    gif[6:10] = struct.pack("<HH", side, side)
    bmp = bytearray(encoded(Image.new("RGB", (8, 8)), "BMP"))
    bmp[18:26] = struct.pack("<II", side, side)
    webp = bytearray(encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True))
    # Fourteen bits each of width and height less one, behind the signature byte.
    place = webp.index(b"VP8L") + 9
    most = min(side, 16383) - 1
    webp[place : place + 4] = struct.pack("<I", most | most << 14)
    return {
        "bomb.png": png([(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]),
        "bomb.jpg": jpeg,
        "bomb.gif": bytes(gif),
        "bomb.bmp": bytes(bmp),
        "bomb.webp": bytes(webp),
    }


def files(marker: str) -> dict[str, File]:
    """By name; `marker` is the path that PostScript among them would write to if anything ran it."""
    rgb, other = photograph(0), photograph(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = encoded(rgb, "JPEG", quality=95)
    progressive = encoded(photograph(2, 90), "JPEG", quality=95, progressive=True)
    large = encoded(photograph(3, 90), "JPEG", quality=95)
    middle = len(large) // 2
    in_rows = encoded(photograph(11, 90), "JPEG", quality=95, restart_marker_rows=1)
    first_restart = in_rows.index(b"\xff\xd0")
    stray = in_rows[:first_restart] + b"stray" * 20 + in_rows[first_restart:]
    postscript = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({marker}) (w) file closefile\n".encode()
    palette = rgb.quantize(16)
    deflated = encoded(photograph(3, 90), "TIFF", compression="tiff_adobe_deflate")
    return {
        "plain.jpg": File(jpeg),
        "progressive.jpg": File(progressive),
        "plain.png": File(encoded(photograph(5), "PNG")),
        "plain.bmp": File(encoded(photograph(6), "BMP")),
        "plain.webp": File(encoded(photograph(7), "WEBP")),
        "without_an_ending": File(encoded(photograph(8), "PNG")),
        "damaged_exif.jpg": File(encoded(photograph(9), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")),
        "cmyk.jpg": File(encoded(rgb.convert("CMYK"), "JPEG"), (Decision.cmyk,)),
        "grey.jpg": File(encoded(rgb.convert("L"), "JPEG"), (Decision.grey,)),
        "grey.png": File(encoded(rgb.convert("L"), "PNG"), (Decision.grey,)),
        "bilevel.png": File(encoded(rgb.convert("1"), "PNG"), (Decision.grey,)),
        "grey16.png": File(
            encoded(Image.fromarray(np.full((SIDE, SIDE), 0x8123, np.uint16)), "PNG"),
            (Decision.grey, Decision.sixteen_bits),
        ),
        "deep.png": File(deep_png(), (Decision.sixteen_bits,)),
        "palette.png": File(encoded(palette, "PNG"), (Decision.palette,)),
        "clear_palette.png": File(encoded(palette, "PNG", transparency=0), (Decision.palette, Decision.transparency)),
        "alpha.png": File(encoded(rgb.convert("RGBA"), "PNG"), (Decision.transparency,)),
        "grey_alpha.png": File(encoded(rgb.convert("LA"), "PNG"), (Decision.grey, Decision.transparency)),
        "animated.gif": File(
            encoded(palette, "GIF", save_all=True, append_images=[other.quantize(16)]),
            (Decision.palette, Decision.first_frame),
        ),
        "animated.webp": File(
            encoded(rgb, "WEBP", save_all=True, append_images=[other], lossless=True), (Decision.first_frame,)
        ),
        "preview.jpg": File(encoded(rgb, "MPO", save_all=True, append_images=[other]), (Decision.first_frame,)),
        "rotated.jpg": File(encoded(rgb, "JPEG", exif=exif), (Decision.turned,)),
        "rotated.png": File(encoded(rgb, "PNG", exif=exif), (Decision.turned,)),
        "rotated.webp": File(encoded(rgb, "WEBP", exif=exif), (Decision.turned,)),
        "png.JPEG": File(encoded(other, "PNG"), (Decision.png_renamed,)),
        "jpeg.png": File(encoded(other, "JPEG"), (Decision.jpeg_renamed,)),
        "bmp.gif": File(encoded(other, "BMP"), (Decision.bmp_renamed,)),
        "gif.jpg": File(encoded(other.quantize(16), "GIF"), (Decision.palette, Decision.gif_renamed)),
        "webp.jpg": File(encoded(other, "WEBP"), (Decision.webp_renamed,)),
        "stray.jpg": File(large[:-2] + b"stray" * 20 + large[-2:], (Decision.stray_bytes,)),
        "odd_scan.jpg": File(odd_scan(large), (Decision.odd_header,)),
        "cut_odd_scan.jpg": File(odd_scan(large[:middle]), refused="truncated"),
        "damaged_odd_scan.jpg": File(odd_scan(large[:middle] + b"\xff\xd9"), refused="premature end of data segment"),
        "stray_odd_scan.jpg": File(
            odd_scan(large[:-2] + b"stray" * 20 + large[-2:]), (Decision.stray_bytes, Decision.odd_header)
        ),
        "stray_and_cut.jpg": File(stray[: len(stray) * 2 // 3], refused="truncated"),
        "stray_and_damaged.jpg": File(stray[: len(stray) * 2 // 3] + b"\xff\xd9", refused="extraneous bytes"),
        "empty.jpg": File(b"", refused="empty file"),
        "text.jpg": File(b"not an image", refused="not an image"),
        "cut.jpg": File(large[:middle], refused="truncated"),
        "without_its_end.jpg": File(large[:-2], refused="truncated"),
        "cut_and_closed.jpg": File(large[:middle] + b"\xff\xd9", refused="premature end of data segment"),
        "cut_cmyk.jpg": File(
            encoded(photograph(3, 90).convert("CMYK"), "JPEG")[:middle] + b"\xff\xd9", refused="premature end"
        ),
        "cut_progressive.jpg": File(progressive[: len(progressive) // 2], refused="truncated"),
        "cut.png": File(encoded(photograph(3, 90), "PNG")[:middle], refused="truncated"),
        "head.jpg": File(b"\xff\xd8\xff\xe0", refused="JPEG, its header is damaged"),
        "tiff.jpg": File(encoded(photograph(12), "TIFF"), (Decision.tiff_renamed,)),
        "plain.tif": File(encoded(photograph(13), "TIFF")),
        "pages.tiff": File(
            encoded(photograph(14), "TIFF", save_all=True, append_images=[other]), (Decision.first_frame,)
        ),
        "rotated.tiff": File(encoded(photograph(15), "TIFF", exif=exif), (Decision.turned,)),
        "cut.tiff": File(encoded(photograph(3, 90), "TIFF")[:middle], refused="truncated"),
        "damaged.tiff": File(deflated[:50] + bytes(100) + deflated[150:], refused="decoder error"),
        "float.tif": File(
            encoded(Image.fromarray(np.linspace(0, 1, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)), "TIFF"),
            (Decision.grey, Decision.wide),
        ),
        "negative.tif": File(
            encoded(Image.fromarray(np.full((SIDE, SIDE), -5, np.int32)), "TIFF"), refused="no known white"
        ),
        "plain.avif": File(encoded(photograph(16), "AVIF")),
        "avif.png": File(encoded(photograph(17), "AVIF"), (Decision.avif_renamed,)),
        "photo.heic": File(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", refused="needs pillow-heif: pip install"),
        "icon.png": File(encoded(rgb, "ICO"), refused="ICO, not supported"),
        "pixels.ppm": File(encoded(rgb, "PPM"), refused="PPM, not supported"),
        "script.jpg": File(postscript, refused="PostScript, not supported"),
        "drawing.svg": File(b'<svg onload="x"/>', refused="SVG or XML, not supported"),
        "page.jpg": File(b"<!DOCTYPE html><title>404</title>", refused="HTML, not supported"),
        "film.jpg": File(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", refused="AVIF, its header is damaged"),
        **{name: File(content, refused="pixels are more than") for name, content in bombs(30_000).items()},
    }
