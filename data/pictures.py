"""Reads picture files as numbers, and makes the copies of large ones that a screen shows."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

LARGEST_SHOWN = 250_000
"""Bytes of a picture that a page fetches without waiting; a larger file is shown as a copy."""
_QUALITIES = (90, 80, 70, 60, 50)
_METHOD = 2
"""Of WebP's seven: two thirds of the time of its default, 4, for as many bytes (`benchmarks/display_copies.py`)."""
_LARGEST_SIDE = 16_383


def read_picture(file: Path | BinaryIO) -> UInt8[np.ndarray, "height width 3"]:
    """The picture in RGB.

    Raises:
        OSError: the file is missing, or holds no whole picture.
    """
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (SyntaxError, ValueError) as error:  # what Pillow makes of some damaged PNGs
        raise OSError(f"damaged picture: {error}") from error


def encode_display_copy(file: Path | BinaryIO) -> bytes:
    """The picture as WebP of the same size in pixels: of quality 90, or the next lower one at which it is within
    `LARGEST_SHOWN` bytes. Below the last quality a copy would show faults that its original has not.

    Raises:
        OSError: the file is missing, holds no whole picture, or is larger than WebP can be (16,383 pixels a side).
    """
    picture = Image.fromarray(read_picture(file))
    if max(picture.size) > _LARGEST_SIDE:
        raise OSError(f"a picture of {picture.width}x{picture.height} pixels is too large for WebP")
    copy = b""
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=quality, method=_METHOD)
        copy = buffer.getvalue()
        if len(copy) <= LARGEST_SHOWN:
            break
    return copy
