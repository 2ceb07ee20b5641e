"""The reward model fitted on ratings: a head on a backbone's features, as `reward_models.fit` saved it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hitl.core.errors import ModelLoadError
from reward_models.backbone import Backbone
from reward_models.fit import FIT_FILE, HEAD_FILE, HEADS
from reward_models.heads.linear import LinearHead
from reward_models.heads.mlp import MlpHead


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipHead:
    """Scores with mean 0 and standard deviation 1 on the draw it was fitted with, comparable within a prompt only."""

    backbone: Backbone
    head: LinearHead | MlpHead
    mean: float
    std: float

    @classmethod
    def load(cls, folder: str | Path, *, device: str | torch.device = "cpu", chunk: int = 64) -> "ClipHead":
        """The reward model in that folder, to see `chunk` images per forward pass.

        Raises:
            ModelLoadError: files are missing or damaged, or the backbone is no longer the one it was fitted on.
        """
        folder = Path(folder)
        refit = "Fit the reward model again; its ratings are all still there."
        try:
            fit = json.loads((folder / FIT_FILE).read_text())
            head = HEADS[fit["head"]].from_tensors(load_file(folder / HEAD_FILE))
            name, pretrained, fingerprint = fit["backbone"], fit["pretrained"], fit["fingerprint"]
            mean, std = float(fit["mean"]), float(fit["std"])
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise ModelLoadError(f"The reward model in {folder} cannot be loaded: {error!r}", hint=refit) from error
        backbone = Backbone.load(name, pretrained, device=device, chunk=chunk)
        if backbone.fingerprint != fingerprint:
            raise ModelLoadError(
                f"The reward model in {folder} was fitted on another version of the backbone {name!r} "
                f"({fingerprint}, now {backbone.fingerprint}).",
                hint=refit,
            )
        return cls(backbone=backbone, head=head, mean=mean, std=std)

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        return self._score(images, prompts).cpu()

    def differentiable(self, images: Float[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        """The same scores for float images in [0, 1], with a gradient to every pixel."""
        return self._score(images, prompts)

    def _score(self, images: Tensor, prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        return (self.head.score(self.backbone.features(images, prompts)) - self.mean) / self.std
