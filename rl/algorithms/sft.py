"""KL-regularised supervised fine-tuning, what DPOK is compared with (arXiv:2305.16381)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rl.advantages import group_advantages
from rl.algorithms.checks import require_price
from rl.algorithms.contract import Denoised


@dataclass(frozen=True, slots=True, kw_only=True)
class Sft:
    """Denoise the reference's images, weighted by their score, and stay near the reference in one of two ways.

    KL-D (`kl_data`) adds a constant to the weights: the reference's images are all learned a little. KL-O (`kl_weight`)
    penalises the distance to the reference's noise.

    Deviations: the score is that within the group, in standard deviations, plus `shift`, and cut off below 0, where the
    authors need a reward that is never negative; and the images are fresh in every epoch.
    """

    learns_from_reference: ClassVar[bool] = True

    shift: float = 1.0
    """Added to the score within the group; what is still below 0 counts nothing."""
    kl_data: float = 0.0
    """gamma of KL-D."""
    kl_weight: float = 1.0
    """gamma of KL-O."""

    def __post_init__(self) -> None:
        for name in ("shift", "kl_data", "kl_weight"):
            require_price(name, getattr(self, name))

    def image_weights(self, scores: Float[Tensor, "groups members"]) -> Float[Tensor, "groups members"]:
        return (group_advantages(scores) + self.shift).clamp(min=0) + self.kl_data

    def loss(self, denoised: Denoised) -> Float[Tensor, ""]:
        return (denoised.weights * denoised.error + self.kl_weight * denoised.reference_distance).mean()
