"""Zero-shot CLIP score: the cosine of image and prompt features. No ratings needed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from reward_models.backbone import STARTER, Backbone


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipScore:
    backbone: Backbone

    @classmethod
    def load(
        cls,
        *,
        backbone: str = STARTER,
        pretrained: str | None = None,
        device: str | torch.device = "cpu",
        chunk: int = 64,
    ) -> "ClipScore":
        """Of `starter`, a folder with `open_clip_config.json`, or an open_clip name and the tag of its weights.

        Raises:
            ModelLoadError: the files are missing, damaged or of another shape.
        """
        return cls(backbone=Backbone.load(backbone, pretrained or None, device=device, chunk=chunk))

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        return self.backbone.features(images, prompts)[:, 0].cpu()

    def differentiable(self, images: Float[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        """The same scores for float images in [0, 1], with a gradient to every pixel."""
        return self.backbone.features(images, prompts)[:, 0]
