"""DDPO (arXiv:2305.13301): importance sampled (IS) and score function (SF). No KL: the reference is only measured."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from rl.advantages import group_advantages
from rl.algorithms.checks import require_advantage_clip, require_clip_range
from rl.losses import ppo_clip_loss, score_function_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class DdpoIs:
    """DDPO_IS, Eq. (5): the clipped ratio of summed log-probabilities."""

    clip_range: float = 0.2
    """How far the one-step policy ratio may move before its gradient stops."""
    advantage_clip: float = 5.0
    """Advantages are cut off here, in standard deviations."""

    def __post_init__(self) -> None:
        require_clip_range(self.clip_range)
        require_advantage_clip(self.advantage_clip)

    def advantages(self, scores: Float[Tensor, "groups members"]) -> Float[Tensor, "groups members"]:
        return group_advantages(scores, clip=self.advantage_clip)

    def loss(
        self,
        log_prob: Float[Tensor, "batch"],
        old_log_prob: Float[Tensor, "batch"],
        advantages: Float[Tensor, "batch"],
        kl: Float[Tensor, "batch"],
        weights: Float[Tensor, "batch"],
    ) -> Float[Tensor, ""]:
        return ppo_clip_loss(log_prob, old_log_prob, advantages, clip_range=self.clip_range, weights=weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class DdpoSf:
    """DDPO_SF, Eq. (4): the score function alone; right for one update on fresh samples."""

    advantage_clip: float = 5.0
    """Advantages are cut off here, in standard deviations."""

    def __post_init__(self) -> None:
        require_advantage_clip(self.advantage_clip)

    def advantages(self, scores: Float[Tensor, "groups members"]) -> Float[Tensor, "groups members"]:
        return group_advantages(scores, clip=self.advantage_clip)

    def loss(
        self,
        log_prob: Float[Tensor, "batch"],
        old_log_prob: Float[Tensor, "batch"],
        advantages: Float[Tensor, "batch"],
        kl: Float[Tensor, "batch"],
        weights: Float[Tensor, "batch"],
    ) -> Float[Tensor, ""]:
        return score_function_loss(log_prob, advantages, weights=weights)
