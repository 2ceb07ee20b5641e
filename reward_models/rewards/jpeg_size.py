"""Size of the image as a JPEG file, in kB: a reward with no weights, for tests and first runs."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from hitl.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class JpegSize:
    """Exact bytes / 1000 of Pillow's JPEG, as in DDPO (arXiv:2305.13301, section 5). `sign=-1` rewards small files."""

    quality: int = 95
    sign: int = 1

    def __post_init__(self) -> None:
        if self.sign not in (1, -1):
            raise ConfigError(f"jpeg_size.sign is {self.sign}, but must be 1 or -1.", hint="Use -1 for small files.")
        if not 1 <= self.quality <= 95:
            raise ConfigError(f"jpeg_size.quality is {self.quality}, but must be in 1 to 95.", hint="Use 95.")

    @classmethod
    def load(cls, *, quality: int = 95, sign: int = 1) -> "JpegSize":
        return cls(quality=quality, sign=sign)

    def __call__(self, images: UInt8[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        """The prompts are not looked at."""
        pictures = images.permute(0, 2, 3, 1).cpu().numpy()
        return torch.tensor([self.sign * self._bytes(picture) / 1000 for picture in pictures], dtype=torch.float32)

    def _bytes(self, picture: np.ndarray) -> int:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="JPEG", quality=self.quality)
        return buffer.tell()
