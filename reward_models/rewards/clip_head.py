"""The reward model fitted on ratings: a head on a backbone's features, as `reward_models.fit` saved it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hitl.core.errors import ModelLoadError
from reward_models.backbone import Backbone
from reward_models.heads import Head
from reward_models.saved import backbone_for, read_head


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipHead:
    """Scores with mean 0 and standard deviation 1 on the draw it was fitted with, comparable within a prompt only.

    With `pessimism` k a score is its mean minus k of its own posterior standard deviations: where the model does not
    know, training has nothing to gain (Coste et al. 2023, arXiv:2310.02743).
    """

    backbone: Backbone
    head: Head
    mean: float
    std: float
    pessimism: float = 0.0

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str | torch.device = "cpu", chunk: int = 64, pessimism: float = 0.0
    ) -> "ClipHead":
        """The reward model in that folder, to see `chunk` images per forward pass.

        Raises:
            ModelLoadError: files are missing or damaged, or the backbone is no longer the one it was fitted on.
        """
        found = read_head(Path(folder))
        name, pretrained, fingerprint = (found.fit[key] for key in ("backbone", "pretrained", "fingerprint"))
        backbone = Backbone.load(name, pretrained, device=device, chunk=chunk)
        if backbone.fingerprint != fingerprint:
            raise ModelLoadError(
                f"The reward model in {folder} was fitted on another version of the backbone {name!r} "
                f"({fingerprint}, now {backbone.fingerprint}).",
                hint="Fit the reward model again; its ratings are all still there.",
            )
        if pessimism and "typical_deviation" not in found.fit:
            raise ModelLoadError(
                f"The reward model in {folder} does not know how sure it is: it was fitted by an earlier version.",
                hint="Fit it again, or set fit.pessimism = 0.",
            )
        backbone = backbone_for(found.head, backbone)
        return cls(backbone=backbone, head=found.head, mean=found.mean, std=found.std, pessimism=pessimism)

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        return self._score(images, prompts).cpu()

    def differentiable(self, images: Float[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        """The same scores for float images in [0, 1], with a gradient to every pixel."""
        return self._score(images, prompts)

    def with_deviation(
        self, images: UInt8[Tensor, "batch 3 h w"] | Float[Tensor, "batch 3 h w"], prompts: Sequence[str]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
        """Posterior mean and standard deviation of each score, whatever the pessimism."""
        mean, deviation = self.head.predict(self.backbone.features(images, prompts))
        return (mean - self.mean) / self.std, deviation / self.std

    def _score(self, images: Tensor, prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        mean, deviation = self.with_deviation(images, prompts)
        return mean - self.pessimism * deviation if self.pessimism else mean
