"""Recognises file formats by their first bytes."""

from functools import cache

from PIL import features

# Widely used and well fuzzed. The rest of Pillow's readers are a needless risk on files from elsewhere.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", *(("AVIF",) if features.check("avif") else ()))

_BEGINNINGS = (
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"BM", "BMP"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "BigTIFF"),
    (b"MM\0+", "BigTIFF"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\2\0", "CUR"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"%PDF", "PDF"),
    (b"8BPS", "PSD"),
    (b"DDS ", "DDS"),
    (b"icns", "ICNS"),
    (b"SIMPLE  =", "FITS"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"v/1\1", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"qoif", "QOI"),
    (b"PK\3\4", "ZIP"),
    (b"\x1f\x8b", "gzip"),
)
_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIC"),
}
# Brands of any codec; another brand says which.
_CONTAINERS = (b"mif1", b"msf1")


def format_of(content: bytes) -> str | None:
    """Returns the format that the first bytes of `content` identify, None if they are unknown."""
    for beginning, name in _BEGINNINGS:
        if content.startswith(beginning):
            return name
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:8] == b"ftyp":
        if content[8:12] in _CONTAINERS:
            return "AVIF" if b"avif" in content[8 : int.from_bytes(content[:4], "big")] else "HEIC"
        return _BRANDS.get(content[8:12], "MP4")
    if content[:1] == b"P" and content[1:2] in b"1234567" and content[2:3].isspace():
        return "PPM"
    start = content[:256].lstrip().lower()
    if start.startswith((b"<svg", b"<?xml")):
        return "SVG or XML"
    if start.startswith((b"<!doctype html", b"<html")):
        return "HTML"
    return None


@cache
def readers_of(kind: str | None) -> tuple[str, ...]:
    """Returns Pillow's readers for a file of the format `kind`; none for HEIC if pillow-heif is not installed."""
    if kind != "HEIC":
        return FORMATS
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return ()
    register_heif_opener()
    return ("HEIF",)
