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
        cls, *, backbone: str = STARTER, pretrained: str | None = None, device: str | torch.device = "cpu"
    ) -> "ClipScore":
        return cls(backbone=Backbone.load(backbone, pretrained, device=device))

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        return self.backbone.features(images, prompts)[:, 0].cpu()
