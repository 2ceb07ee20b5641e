"""Reward-weighted regression, DDPO's baseline (arXiv:2305.13301): denoise one's own images, the good ones more."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from hitl.core.errors import ConfigError
from rl.advantages import group_advantages
from rl.algorithms.checks import require_price
from rl.algorithms.contract import Denoised


@dataclass(frozen=True, slots=True, kw_only=True)
class Rwr:
    """Weights exp(beta A) over their mean, or the best of each group alone.

    Deviations: A is the score within its group, not the score, which is comparable within a prompt only.
    """

    learns_from_reference: ClassVar[bool] = False

    beta: float = 1.0
    """How much more a better image counts: exp(beta) for each standard deviation of the scores within a group."""
    top_share: float = 0.0
    """Instead of that, learn from this share of each group alone, its best, all alike, with those that are as good as
    the last of them. 0: off."""

    def __post_init__(self) -> None:
        require_price("beta", self.beta)
        if not 0 <= self.top_share < 1:
            raise ConfigError(
                f"algorithm.top_share is {self.top_share}, but must be at least 0 and less than 1.",
                hint="Use 0.25 for the best quarter of each group, or 0 for exponential weights.",
            )

    def image_weights(self, scores: Float[Tensor, "groups members"]) -> Float[Tensor, "groups members"]:
        if self.top_share > 0:
            members = scores.shape[1]
            best = min(max(1, round(self.top_share * members)), members - 1)
            # All that are as good as the last of the best are among them: no order of the images decides.
            weights = (scores >= scores.topk(best, dim=1).values[:, -1:]).float()
            weights = weights / weights.sum(dim=1, keepdim=True)
        else:
            exponents = self.beta * group_advantages(scores)
            weights = (exponents - exponents.max()).exp()  # the largest is 1: none is infinite
        return weights / weights.mean()

    def loss(self, denoised: Denoised) -> Float[Tensor, ""]:
        return (denoised.weights * denoised.error).mean()
