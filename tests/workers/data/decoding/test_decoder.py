"""One image file to RGB pixels."""

import io

import numpy as np
import pytest
from pictures import encoded, noise
from PIL import Image

from workers.data.decoding import BadImage, decode, decoder


@pytest.mark.parametrize(("width", "height"), [(16, 16), (30, 16), (16, 31), (16, 17)])
def test_shorter_side_of_the_wanted_size_gives_the_exact_centre(width, height):
    image = noise(0, width, height)
    picture = decode(encoded(image), 16)
    left, top = (width - 16) // 2, (height - 16) // 2
    np.testing.assert_array_equal(picture.pixels, np.asarray(image)[top : top + 16, left : left + 16])
    assert (picture.width, picture.height) == (width, height)


def test_smaller_and_larger_images_are_scaled():
    for width, height in ((5, 8), (40, 43), (300, 303), (20000, 1)):
        assert decode(encoded(noise(0, width, height)), 16).pixels.shape == (16, 16, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_every_mode_of_mid_grey_comes_out_grey(mode):
    level = {"1": 255, "I;16": 0x8080}.get(mode, 0x80)
    if mode in ("1", "I;16"):
        image = Image.new(mode, (8, 8), level)
    else:
        image = Image.new("RGB", (8, 8), (level,) * 3).convert(mode)
    pixels = decode(encoded(image), 8).pixels
    assert pixels.shape == (8, 8, 3)
    assert np.abs(pixels.astype(int) - (255 if mode == "1" else 0x80)).max() <= 30 * (mode == "P")


def test_cmyk_jpeg_keeps_its_colour():
    pixels = decode(encoded(Image.new("RGB", (16, 16), (200, 40, 40)).convert("CMYK"), "JPEG", quality=95), 8).pixels
    assert np.abs(pixels.astype(int) - (200, 40, 40)).max() < 10


def test_transparency_lies_on_white():
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert (decode(encoded(clear), 8).pixels == 255).all()
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([1, 2, 3] * 256)
    assert (decode(encoded(palette, transparency=0), 8).pixels == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "AVIF"])
def test_truncated_image_is_refused_and_a_whole_one_is_not(kind):
    content = encoded(noise(0, 64, 64), kind)
    decode(content, 8)
    for share in (0.01, 0.1, 0.5, 0.9):
        with pytest.raises(BadImage):
            decode(content[: int(len(content) * share)], 8)


def test_damaged_bytes_never_raise_anything_else():
    generator = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "AVIF"):
        whole = np.frombuffer(encoded(noise(0, 24, 24), kind), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            damaged[generator.integers(0, len(whole), 6)] = generator.integers(0, 256, 6)
            try:
                assert decode(damaged.tobytes(), 8).pixels.shape == (8, 8, 3)
            except BadImage as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "I;16", "1"])
def test_large_image_is_converted_in_strips_to_the_same_pixels(mode, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (61, 47, 4), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., :2].copy().view(np.uint16)[..., 0])
    else:
        image = Image.fromarray(pixels).convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG")
    whole = decode(file.getvalue(), 20).pixels
    monkeypatch.setattr(decoder, "_STRIP_PIXELS", 47 * 10)
    assert np.array_equal(decode(file.getvalue(), 20).pixels, whole)
