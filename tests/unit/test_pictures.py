"""Picture files, whole and damaged."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.pictures import read_picture


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_a_picture_comes_back_as_it_was_saved(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(png(PIXELS))
    assert np.array_equal(read_picture(tmp_path / "a.png"), PIXELS)
    assert np.array_equal(read_picture(io.BytesIO(png(PIXELS[:, :, 0])))[:, :, 2], PIXELS[:, :, 0])


@pytest.mark.parametrize(
    "damage",
    [
        slice(0, 1),  # no PNG at all
        slice(8, 12),  # the header is 0 bytes long: Pillow's ValueError
        slice(33, 37),  # so are the pixels: its SyntaxError
        slice(-30, None),
    ],
)
def test_a_damaged_picture_is_an_os_error(damage: slice):
    content = bytearray(png(PIXELS))
    content[damage] = bytes(len(content[damage]))
    with pytest.raises(OSError):  # noqa: PT011 - the message is Pillow's
        read_picture(io.BytesIO(content))


def test_a_missing_picture_is_an_os_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "none.png")
