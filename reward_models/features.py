"""Features on disk: each image and each prompt meets a backbone once, however often a reward is fitted."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from data.workspace import write_atomically
from hitl.core.errors import WorkspaceError
from reward_models.backbone import Backbone

logger = logging.getLogger(__name__)

LoadImage = Callable[[str], np.ndarray]
"""Image id -> uint8 (h, w, 3)."""


_WRITE_EVERY = 4096
"""Images between writes: what a kill can cost of a long encoding."""


class FeatureCache:
    """Features by content hash, in files below `folder/<backbone's fingerprint>/`.

    A file holds what one call computed and is written whole or not at all; a damaged one is dropped and its features
    are computed again.
    """

    def __init__(self, folder: Path | None, backbone: Backbone) -> None:
        """Without a folder features are kept in memory alone: for a backbone that the next fit will not see."""
        self._backbone = backbone
        self._folder = folder / backbone.fingerprint if folder else None
        self._known: dict[str, np.ndarray] = {}
        if self._folder and self._folder.is_dir():
            for path in sorted(self._folder.glob("*.safetensors")):
                self._read(path)

    def images(
        self,
        image_ids: Sequence[str],
        load_image: LoadImage,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Float[Tensor, "batch width"]:
        """Features of these images. `load_image` is asked for the new ones alone, and `on_progress` hears of them.

        Raises:
            WorkspaceError: an image is missing or cannot be read.
        """
        new = sorted({each for each in image_ids if _image_key(each) not in self._known})
        found: dict[str, np.ndarray] = {}
        for start in range(0, len(new), self._backbone.chunk):
            part = new[start : start + self._backbone.chunk]
            pictures = [_picture(each, load_image) for each in part]
            for picture, features in zip(part, self._encode(pictures), strict=True):
                found[_image_key(picture)] = features
            on_progress(min(start + self._backbone.chunk, len(new)), len(new))
            if len(found) >= _WRITE_EVERY:
                self._write(found)
                found = {}
        self._write(found)
        return torch.from_numpy(np.stack([self._known[_image_key(each)] for each in image_ids]))

    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "batch width"]:
        """Features of these prompts."""
        new = sorted({each for each in prompts if _text_key(each) not in self._known})
        if new:
            features = self._backbone.text_features(new).cpu().numpy()
            self._write({_text_key(prompt): row for prompt, row in zip(new, features, strict=True)})
        return torch.from_numpy(np.stack([self._known[_text_key(each)] for each in prompts]))

    @torch.no_grad()
    def _encode(self, pictures: list[np.ndarray]) -> np.ndarray:
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, picture in enumerate(pictures):
            by_size.setdefault(picture.shape, []).append(index)
        out = np.empty((len(pictures), self._backbone.width), np.float32)
        for rows in by_size.values():
            batch = torch.from_numpy(np.stack([pictures[row] for row in rows])).permute(0, 3, 1, 2)
            out[rows] = self._backbone.image_features(batch).cpu().numpy()
        return out

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, "np") as file:
                keys = json.loads(file.metadata()["keys"])
                self._known.update(zip(keys, file.get_tensor("features"), strict=True))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            logger.warning("Feature file %s is damaged (%s): its features are computed again.", path.name, error)
            path.unlink(missing_ok=True)

    def _write(self, found: dict[str, np.ndarray]) -> None:
        if not found:
            return
        self._known.update(found)
        if self._folder is None:
            return
        keys = sorted(found)
        name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:32]
        content = save({"features": np.stack([found[key] for key in keys])}, metadata={"keys": json.dumps(keys)})
        write_atomically(self._folder / f"{name}.safetensors", content)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures for those who see them many times: read once, at the size that a backbone sees, in 8 bits.

    They lie in a file without a name, so the system decides how much of it is in memory: 12 kB for a picture at 64×64,
    150 kB at 224×224. A picture of another size is rounded to 8 bits once it has the backbone's, as open_clip's own
    transform does; one of that size is as it was.
    """

    pixels: np.ndarray
    """uint8 (pictures, 3, height, width)"""
    row: np.ndarray
    """Of each image asked for; int (images,)."""

    @classmethod
    def read(cls, image_ids: Sequence[str], load_image: LoadImage, backbone: Backbone, folder: Path) -> "Pictures":
        """The file is in `folder` and goes with the last reference to it.

        Raises:
            WorkspaceError: an image is missing or cannot be read.
        """
        distinct, row = np.unique(np.array(image_ids), return_inverse=True)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros(0)
        with tempfile.TemporaryFile(dir=folder) as file:
            for number, image_id in enumerate(distinct.tolist()):
                picture = torch.from_numpy(_picture(image_id, load_image).copy()).permute(2, 0, 1)[None]
                fitted = (backbone.resized(picture) * 255).round().to(torch.uint8).cpu().numpy()
                if number == 0:
                    pixels = np.memmap(file, np.uint8, "w+", shape=(len(distinct), *fitted.shape[1:]))
                pixels[number] = fitted[0]
        return cls(pixels, row)

    def take(self, rows: np.ndarray) -> UInt8[Tensor, "batch 3 h w"]:
        return torch.from_numpy(np.array(self.pixels[self.row[rows]]))

    @torch.no_grad()
    def features(self, backbone: Backbone) -> Float[Tensor, "images width"]:
        """Of each image asked for; a picture is encoded once."""
        starts = range(0, len(self.pixels), backbone.chunk)
        parts = [torch.from_numpy(np.array(self.pixels[start : start + backbone.chunk])) for start in starts]
        return torch.cat([backbone.image_features(part).cpu() for part in parts])[self.row]


def _picture(image_id: str, load_image: LoadImage) -> np.ndarray:
    hint = "Restore the file from a backup, or void the ratings that show it."
    try:
        picture = np.asarray(load_image(image_id))
    except (OSError, ValueError, KeyError) as error:
        raise WorkspaceError(f"Image {image_id[:12]} cannot be read: {error}", hint=hint) from error
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise WorkspaceError(
            f"Image {image_id[:12]} is {picture.dtype} {picture.shape}, but uint8 (height, width, 3) was expected.",
            hint=hint,
        )
    return picture


def _image_key(image_id: str) -> str:
    return f"image-{image_id}"


def _text_key(prompt: str) -> str:
    return f"text-{hashlib.sha256(prompt.encode()).hexdigest()}"
