"""Odd pictures: what becomes of them, checked pixel by pixel, and what is refused in words."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from data.imports.pictures import to_png
from data.imports.records import NotTaken

ORIENTATION, GPS = 0x0112, 0x8825


def encoded(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


def a_picture(width: int = 3, height: int = 2) -> Image.Image:
    return Image.fromarray(np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3))


def test_an_rgb_png_keeps_its_very_bytes():
    content = encoded(a_picture())
    assert to_png(content).content is content
    assert (to_png(content).width, to_png(content).height, to_png(content).changes) == (3, 2, ())


def test_a_palette_becomes_its_colours():
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    assert pixels(to_png(encoded(picture)).content).tolist() == [[[255, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_white(mode: str):
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 0, 255))
    found = to_png(encoded(clear.convert(mode)))
    assert pixels(found.content).tolist() == [[[255, 255, 255], [0, 0, 0]]]
    assert any("on white" in change for change in found.changes)


def test_a_half_transparent_pixel_is_mixed_with_white():
    found = to_png(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128))))
    assert abs(int(pixels(found.content)[0, 0, 0]) - 127) <= 1


def test_exif_turns_the_picture_and_nothing_of_it_stays():
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned by 90 degrees to the right
    exif.get_ifd(GPS)[1] = "N"
    jpeg = encoded(Image.new("RGB", (8, 4), "red"), "JPEG", exif=exif)
    found = to_png(jpeg)
    assert (found.width, found.height) == (4, 8)
    with Image.open(io.BytesIO(found.content)) as picture:
        assert not picture.getexif()
        assert set(picture.info) <= {"dpi"}


def test_a_png_that_exif_turns_does_not_keep_its_bytes():
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    found = to_png(encoded(a_picture(), exif=exif))
    assert pixels(found.content).tolist() == np.asarray(a_picture())[::-1, ::-1].tolist()


def test_16_bits_become_8_by_their_high_byte():
    wide = Image.fromarray(np.array([[0, 0x1234, 0xFFFF]], dtype=np.uint16))
    assert pixels(to_png(encoded(wide)).content)[0, :, 0].tolist() == [0, 0x12, 0xFF]


def test_a_png_with_16_bits_a_channel_is_written_anew():
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    line = b"\0" + struct.pack(">HHH", 0xFF00, 0x8000, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(line)) + chunk(b"IEND", b"")
    found = to_png(content)
    assert found.content != content
    assert pixels(found.content).tolist() == [[[255, 128, 0]]]


def test_cmyk_and_grey_become_rgb():
    assert pixels(to_png(encoded(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "JPEG")).content)[0, 0, 0] > 200
    assert pixels(to_png(encoded(Image.new("L", (1, 1), 77))).content).tolist() == [[[77, 77, 77]]]


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    found = to_png(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert pixels(found.content)[0, 0].tolist() == [255, 0, 0]
    assert "is the first of 2 frames" in found.changes


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_one_pixel_is_a_picture(form: str):
    found = to_png(encoded(Image.new("RGB", (1, 1), "white"), form))
    assert pixels(found.content).tolist() == [[[255, 255, 255]]]


def test_50_megapixels_are_taken():
    found = to_png(encoded(Image.new("1", (10_000, 5_000))))
    assert (found.width, found.height) == (10_000, 5_000)


@pytest.mark.parametrize("side", [9_500, 20_000])
def test_a_decompression_bomb_is_refused_before_it_unpacks(side: int):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    empty = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(NotTaken, match=r"more than 89 million pixels.*bomb"):
        to_png(b"\x89PNG\r\n\x1a\n" + chunk + empty)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture"),
    ],
)
def test_what_is_no_picture_is_said(content: bytes, reason: str):
    with pytest.raises(NotTaken, match=reason):
        to_png(content)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_picture_that_is_cut_short_is_refused(form: str):
    content = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), form)
    with pytest.raises(NotTaken, match=r"damaged or cut short|no picture"):
        to_png(content[: len(content) // 2])


def test_a_text_chunk_that_unpacks_without_end_is_refused():
    told = PngImagePlugin.PngInfo()
    told.add_text("a", "b" * (2 * PngImagePlugin.MAX_TEXT_CHUNK), zip=True)
    with pytest.raises(NotTaken, match="damaged"):
        to_png(encoded(Image.new("L", (1, 1)), pnginfo=told))


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"]),
    form=st.sampled_from(["PNG", "JPEG", "TIFF", "WEBP"]),
    width=st.integers(1, 9),
    height=st.integers(1, 9),
    cut=st.floats(0.0, 1.0),
)
def test_any_bytes_are_a_picture_or_a_reason(mode: str, form: str, width: int, height: int, cut: float):
    try:
        content = encoded(Image.new(mode, (width, height)), form)
    except OSError:
        return  # a form that has no such mode
    content = content[: round(cut * len(content))]
    try:
        found = to_png(content)
    except NotTaken:  # any other error fails the test
        return
    assert pixels(found.content).shape == (height, width, 3)
    assert to_png(content).content == found.content
    assert to_png(found.content).changes == ()
