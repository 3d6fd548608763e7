"""Photographs of 108 megapixels and bombs: memory stays bounded, and the limit is a setting."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from bad_files import png
from pictures import encoded, noise
from PIL import Image

from workers.data.decoding import BadImage, Rules, decode

CHECKOUT = Path(__file__).parents[4]
WIDTH, HEIGHT = 12_000, 9_000
# Seven bytes a pixel of a PNG, and of a JPEG the reduced pixels (or, if it is progressive, its coefficients).
MOST_MB = {"large.jpg": 60, "progressive.jpg": 420, "large.png": 7 * WIDTH * HEIGHT // 10**6}
_READ = """
import sys
from pathlib import Path
from benchmarks.turns import peak_mb
from workers.data.decoding import BadImage, decode
decode(Path(sys.argv[1]).read_bytes(), 64)
before = peak_mb()
try:
    picture = decode(Path(sys.argv[2]).read_bytes(), 64)
    print(picture.width, picture.height, *picture.pixels[0, 0], end=" ")
except BadImage as error:
    print(error, end=" ")
print(int(peak_mb() - before))
"""


def read(folder: Path, name: str) -> list[str]:
    """Returns the words that a process of its own prints about a file; the last is what decoding added, in MB."""
    (folder / "small.png").write_bytes(encoded(noise(1)))
    asked = subprocess.run(
        [sys.executable, "-c", _READ, folder / "small.png", folder / name],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert asked.stderr == ""
    return asked.stdout.split()


def large_png(width: int, height: int) -> bytes:
    """RGB of one colour, without its pixels in memory."""
    packing = zlib.compressobj(1)
    block = (b"\0" + bytes((200, 100, 50)) * width) * 100
    lines = [packing.compress(block) for _ in range(height // 100)]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png([(b"IHDR", header), (b"IDAT", b"".join((*lines, packing.flush()))), (b"IEND", b"")])


@pytest.mark.parametrize("name", MOST_MB)
def test_image_of_108_megapixels_is_read_in_bounded_memory(tmp_path, name):
    path = tmp_path / name
    if name == "large.png":
        path.write_bytes(large_png(WIDTH, HEIGHT))
    else:
        image = Image.new("L", (WIDTH, HEIGHT), 90)
        image.save(path, "JPEG", progressive=name.startswith("progressive"))
    width, height, *colour, used_mb = map(int, read(tmp_path, name))
    assert (width, height) == (WIDTH, HEIGHT)
    assert colour == ([200, 100, 50] if name == "large.png" else [90] * 3)
    assert 0 < used_mb <= MOST_MB[name]


def test_limit_is_the_datasets_and_its_line_names_the_setting():
    content = encoded(noise(2, 30, 20))
    assert decode(content, 8, rules=Rules(max_pixels=600)).width == 30
    line = r"^600 pixels are more than datasets\.<name>\.max_pixels=599 allows$"
    with pytest.raises(BadImage, match=line):
        decode(content, 8, rules=Rules(max_pixels=599))
    for kind in ("JPEG", "BMP", "GIF", "WEBP", "TIFF", "AVIF"):
        with pytest.raises(BadImage, match=line):
            decode(encoded(noise(2, 30, 20), kind), 8, rules=Rules(max_pixels=599))


def tiff(width: int, height: int, tile: int) -> bytes:
    """A deflated grey TIFF of one tile, whose sides may be far larger than the image's."""
    packed = zlib.compress(bytes(min(tile * tile, 100_000_000)), 9)
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(packed)}
    at = 8 + len(packed)
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return struct.pack("<2sHL", b"II", 42, at) + packed + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_a_tile_of_a_tiff_counts_like_an_image(tmp_path):
    assert decode(tiff(16, 16, 64), 8).width == 16
    (tmp_path / "bomb.tif").write_bytes(tiff(16, 16, 60_000))
    *said, used_mb = read(tmp_path, "bomb.tif")
    assert " ".join(said) == "3600000000 pixels are more than datasets.<name>.max_pixels=200000000 allows"
    assert int(used_mb) < 50


def test_levels_of_float_and_whole_number_tiffs_become_grey_or_are_refused():
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    wanted = np.rint(ramp * 255).astype(np.uint8)
    for white, kind in ((1, np.float32), (255, np.float32), (65535, np.float32), (255, np.int32), (65535, np.int32)):
        picture = decode(encoded(Image.fromarray((ramp * white).astype(kind)), "TIFF"), 8)
        assert np.abs(picture.pixels.astype(int) - wanted[..., None]).max() <= 1
    for level in (-1, 70_000, np.inf, np.nan):
        for place in (0, 40):
            odd = ramp.copy()
            odd.flat[place] = level
            with pytest.raises(BadImage, match=r"(no known white|not a number); convert it to 8 or 16 bits"):
                decode(encoded(Image.fromarray(odd), "TIFF"), 8)
