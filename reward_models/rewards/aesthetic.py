"""LAION's aesthetic predictor: how beautiful people find such a picture, from 1 to 10, whatever the prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from reward_models.backbone import Backbone
from reward_models.linear_stack import LinearStack
from reward_models.needs import HubFile, Need, OpenClipWeights
from reward_models.weights import find_file, read_tensors

_REPO, _FILE = "trl-lib/ddpo-aesthetic-predictor", "aesthetic-model.pth"
"""A copy of sac+logos+ava1-l14-linearMSE.pth, which its authors publish on GitHub alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aesthetic:
    """A head on CLIP ViT-L/14's image features: LAION's improved predictor, or their first, linear one."""

    needs: ClassVar[tuple[Need, ...]] = (HubFile(_REPO, _FILE), OpenClipWeights("ViT-L-14", "openai"))

    backbone: Backbone
    head: LinearStack

    @classmethod
    def load(
        cls,
        *,
        weights: str | Path = _REPO,
        file: str = _FILE,
        backbone: str = "ViT-L-14",
        pretrained: str = "openai",
        device: str | torch.device = "cpu",
        chunk: int = 64,
    ) -> "Aesthetic":
        """The head in `weights` (a file, or a folder or hub id that has `file`) on that open_clip model.

        Raises:
            ModelLoadError: files are missing, damaged, or do not fit each other.
        """
        tensors = read_tensors(find_file(weights, file))
        model = Backbone.load(backbone, pretrained or None, device=device, chunk=chunk)
        return cls(backbone=model, head=LinearStack.from_tensors(tensors, width=model.width, device=device))

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        """The prompts are not looked at."""
        return self.head(self.backbone.image_features(images)).cpu()

    def differentiable(self, images: Float[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        """The same scores for float images in [0, 1], with a gradient to every pixel."""
        return self.head(self.backbone.image_features(images))
