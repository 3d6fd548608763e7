"""HEIC, where pillow-heif is installed; where it is not, the line names the extra."""

import io
import sys
from types import SimpleNamespace

import pytest
from pictures import encoded, smooth
from PIL import Image, ImageFile

from workers.data.decoding import BadImage, decode
from workers.data.decoding.decisions import Decision
from workers.data.decoding.formats import format_of, readers_of

BOX = b"\0\0\0\x18ftyp%b\0\0\0\0mif1heic"


@pytest.fixture(autouse=True)
def _asked_anew():
    readers_of.cache_clear()
    yield
    readers_of.cache_clear()


def test_brands_tell_heic_from_avif():
    assert format_of(BOX % b"heic") == format_of(BOX % b"mif1") == format_of(BOX % b"hevx") == "HEIC"
    assert format_of(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif") == "AVIF"
    assert format_of(BOX % b"isom") == "MP4"


def test_without_pillow_heif_the_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BadImage, match=r"^HEIC, which needs pillow-heif: pip install 'septet\[heic\]'$"):
        decode(BOX % b"heic" + bytes(99), 16, "a.heic")


def test_pillow_heif_is_asked_only_for_heic(monkeypatch):
    """A stand-in for its reader, which registers itself in the same way: a PNG behind the first box."""

    class Reader(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self):
            inner = Image.open(io.BytesIO(self.fp.read()[24:]), formats=("PNG",))
            self._size, self._mode, self.im = inner.size, inner.mode, inner.getim() and inner.im
            self.tile = []

    asked = []

    def register():
        asked.append(1)
        Image.register_open("HEIF", Reader, lambda prefix: prefix[4:8] == b"ftyp")

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    content = encoded(smooth(1, 20, 24))
    assert decode(content, 16, "a.png").decisions == () and not asked
    picture = decode(BOX % b"heic" + content, 16, "a.heic")
    assert (picture.pixels == decode(content, 16).pixels).all() and picture.decisions == ()
    assert decode(BOX % b"heic" + content, 16, "a.jpg").decisions == (Decision.heif_renamed,)
    assert asked == [1]


def test_real_pillow_heif_reads_a_photograph_upright():
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    heif.from_pillow(smooth(1, 90, 120)).save(file, quality=90, exif=exif.tobytes())
    picture = decode(file.getvalue(), 16, "a.heic")
    assert (picture.width, picture.height) == (120, 90)
    with pytest.raises(BadImage, match="HEIC"):
        decode(file.getvalue()[:200], 16)
