"""Reads picture files as numbers."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image


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
