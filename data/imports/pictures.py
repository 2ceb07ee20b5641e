"""Any picture that a person may have, as the PNG that the store keeps.

A PNG that is 8-bit RGB already keeps its very bytes, so that its id survives an export and an import. Every other
picture is written anew: turned as its EXIF says, on white where it was transparent, with 8 bits a channel, without
metadata (place, camera, colour profile), and so that the same picture gives the same bytes.
"""

import io
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from data.imports.records import NotTaken
from data.workspace import PNG_SIGNATURE

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO", "AVIF", "JPEG2000")
"""What is opened at all. Not those for which Pillow starts another program."""
_ORIENTATION = 0x0112
_PLAIN_PNG = (8, 2)
"""Bit depth and colour type of 8-bit RGB, in a PNG's header."""
_WIDE = {"I", "I;16", "I;16L", "I;16B", "I;16N"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Png:
    """A picture as the store keeps it."""

    content: bytes
    width: int
    height: int
    changes: tuple[str, ...]
    """What was done to it, in words; empty where the bytes are those that were given."""


def to_png(content: bytes) -> Png:
    """The picture as an 8-bit RGB PNG.

    Raises:
        NotTaken: it is no picture, is cut short or damaged, or has more pixels than can be opened safely.
    """
    if not content:
        raise NotTaken("an image is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=_known()) as image:
                image.load()
                return _kept(content, image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise NotTaken(
            f"an image has more than {limit:.0f} million pixels, which may be a decompression bomb"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise NotTaken(f"an image is no picture that can be opened ({', '.join(_FORMATS[:6])} can)") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, OverflowError) as error:
        raise NotTaken(f"an image is damaged or cut short: {error}") from error


def _known() -> tuple[str, ...]:
    """Of the formats those that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _kept(content: bytes, image: Image.Image) -> Png:
    turned = image.getexif().get(_ORIENTATION, 1) not in (0, 1)
    frames = getattr(image, "n_frames", 1)
    is_plain = content.startswith(PNG_SIGNATURE) and tuple(content[24:26]) == _PLAIN_PNG
    if is_plain and not turned and frames == 1 and "transparency" not in image.info:
        return Png(content=content, width=image.width, height=image.height, changes=())
    changes = [f"was {image.format} in mode {image.mode}"]
    if frames > 1:
        changes.append(f"is the first of {frames} frames")
    if turned:
        image = ImageOps.exif_transpose(image)
        changes.append("was turned as its EXIF says")
    rgb, how = _as_rgb(image)
    changes += how
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(rgb)).save(buffer, "PNG")  # a fresh picture: whatever else the old one held stays behind
    return Png(content=buffer.getvalue(), width=rgb.width, height=rgb.height, changes=tuple(changes))


def _as_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    if image.mode == "F":
        raise NotTaken("an image has floating-point pixels, of which nobody knows what is white")
    if image.mode in _WIDE:
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray((wide.clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB"), ["had 16 bits a channel"]
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(white, clear).convert("RGB"), ["was laid on white where it was transparent"]
    return image.convert("RGB"), []
