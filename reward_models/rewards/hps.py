"""HPSv2 and 2.1: the Human Preference Score, CLIP ViT-H/14 fine-tuned on choices among generated pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hitl.core.errors import ConfigError
from reward_models.backbone import Backbone
from reward_models.needs import HubFile, Need
from reward_models.weights import find_file

_REPO = "xswu/HPSv2"
_FILES = {"2.0": "HPS_v2_compressed.pt", "2.1": "HPS_v2.1_compressed.pt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hps:
    """The cosine of image and prompt (arXiv:2306.09341), most often between 0.2 and 0.35."""

    needs: ClassVar[tuple[Need, ...]] = (HubFile(_REPO, _FILES["2.1"]),)

    backbone: Backbone

    @classmethod
    def load(
        cls,
        *,
        weights: str | Path = _REPO,
        version: str = "2.1",
        model: str = "ViT-H-14",
        device: str | torch.device = "cpu",
        chunk: int = 32,
    ) -> "Hps":
        """The checkpoint in `weights` (a file, or a folder or hub id that has version 2.0's or 2.1's).

        Raises:
            ModelLoadError: files are missing, damaged, or of another model than `model`.
        """
        if version not in _FILES:
            raise ConfigError(f"hps.version is {version!r}.", hint=f"Use {' or '.join(_FILES)}.")
        backbone = Backbone.load(model, str(find_file(weights, _FILES[version])), device=device, chunk=chunk)
        # It was trained on pictures that were padded to a square, not cropped to one.
        padded = backbone.preprocessing | {"resize_mode": "longest", "fill_color": 0}
        return cls(backbone=replace(backbone, preprocessing=padded))

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        return self.backbone.features(images, prompts)[:, 0].cpu()

    def differentiable(self, images: Float[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        """The same scores for float images in [0, 1], with a gradient to every pixel."""
        return self.backbone.features(images, prompts)[:, 0]
