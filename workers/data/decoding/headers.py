"""Removes what is odd in a header and affects no pixel, so that the rest of the file can be decoded strictly."""

import re
import zlib

_SOI, _EOI, _SOS, _COM, _APP0, _APP1, _APP14, _APP15 = 0xD8, 0xD9, 0xDA, 0xFE, 0xE0, 0xE1, 0xEE, 0xEF
# libjpeg passes over anything up to the next marker, and an FF may be repeated.
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
# TEM and RST0…7 have no length and mean nothing here.
_BARE = frozenset((0x01, *range(0xD0, 0xD8)))
_SEQUENTIAL = frozenset((0xC0, 0xC1, 0xC9))
_FRAMES = _SEQUENTIAL | {0xC2, 0xCA}
# The revision, density and thumbnail affect nothing, but that a file is JFIF says that its colours are YCbCr.
_JFIF, _JFIF_LENGTH = b"JFIF\0\1\1\0\0\1\0\1\0\0", 14
_ADOBE_LENGTH = 12
# The transforms that libjpeg knows of three and four components, and the one that it assumes for others.
_TRANSFORMS = {3: ((0, 1), 1), 4: ((0, 2), 2)}
_EVERY_FREQUENCY = bytes((0, 63, 0))

_PNG = b"\x89PNG\r\n\x1a\n"
# Chunks that affect no pixel here. By name, since in a damaged file an unknown one may have been needed.
_UNUSED = frozenset(
    b"tEXt zTXt iTXt iCCP cICP gAMA cHRM sRGB sBIT bKGD hIST pHYs sPLT tIME oFFs pCAL sCAL sTER".split()
)
# Orientation and frames, dropped if they are damaged.
_TOLD = frozenset(b"eXIf acTL fcTL fdAT".split())


def plain_header(content: bytes) -> bytes:
    """Returns a JPEG or PNG without what is odd in its header and affects no pixel; others as they are.

    A JPEG loses stray bytes, comments and application data but EXIF before its first scan, and gets the usual JFIF
    revision, Adobe transform and scan values; a PNG loses text, colour profile and the like. All else stays.
    """
    if content.startswith(_PNG):
        return _plain_png(content)
    return _plain_jpeg(content) if content.startswith(b"\xff\xd8") else content


def _plain_jpeg(content: bytes) -> bytes:
    segments: list[tuple[int, bytes]] = []
    at = 2
    while not segments or segments[-1][0] != _SOS:
        found = _MARKER.search(content, at)
        if found is None or found[1][0] in (_SOI, _EOI):
            return content
        at = found.end()
        if found[1][0] not in _BARE:
            # A length includes its own two bytes, also where it says less.
            end = at + max(2, int.from_bytes(content[at : at + 2], "big"))
            segments.append((found[1][0], content[at + 2 : end]))
            at = end
    frame, about = next((each for each in segments if each[0] in _FRAMES), (0, b""))
    num_components = about[5] if len(about) > 5 else 0
    plain = [b"\xff\xd8"]
    for marker, body in segments:
        kept = _plain_segment(marker, body, num_components, sequential=frame in _SEQUENTIAL)
        if kept is not None:
            plain.append(bytes((0xFF, marker)) + (len(kept) + 2).to_bytes(2, "big") + kept)
    return b"".join((*plain, content[at:]))


def _plain_segment(marker: int, body: bytes, num_components: int, *, sequential: bool) -> bytes | None:
    """Returns what to keep of a segment; None drops it."""
    if marker == _APP0 and body.startswith(b"JFIF\0") and len(body) >= _JFIF_LENGTH:
        return _JFIF
    if marker == _APP14 and body.startswith(b"Adobe") and len(body) >= _ADOBE_LENGTH:
        known, assumed = _TRANSFORMS.get(num_components, ((), 0))
        transform = body[_ADOBE_LENGTH - 1]
        return body[: _ADOBE_LENGTH - 1] + bytes((transform if transform in known else assumed,))
    if marker == _APP1 and body.startswith(b"Exif\0\0"):
        return body
    if marker == _COM or _APP0 <= marker <= _APP15:
        return None
    if marker == _SOS and sequential:
        return body[:-3] + _EVERY_FREQUENCY
    return body


def _plain_png(content: bytes) -> bytes:
    parts, at = [_PNG], len(_PNG)
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        name, chunk = content[at + 4 : at + 8], content[at:end]
        damaged = zlib.crc32(chunk[4:-4]).to_bytes(4, "big") != chunk[-4:]
        if name not in _UNUSED and not (name in _TOLD and damaged):
            parts.append(chunk)
        at = end
    return b"".join((*parts, content[at:]))
