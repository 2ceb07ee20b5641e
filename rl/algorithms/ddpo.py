"""DDPO (arXiv:2305.13301): importance sampled (IS) and score function (SF). No KL: the reference is only measured."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from hitl.core.errors import ConfigError
from rl.advantages import group_advantages
from rl.losses import ppo_clip_loss, score_function_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class DdpoIs:
    """DDPO_IS, Eq. (5): the clipped ratio of summed log-probabilities."""

    clip_range: float = 0.2
    """How far the one-step policy ratio may move before its gradient stops."""
    advantage_clip: float = 5.0
    """Advantages are cut off here, in standard deviations."""

    def __post_init__(self) -> None:
        if not 0 < self.clip_range < 1:
            raise ConfigError(
                f"algorithm.clip_range is {self.clip_range}, but must be between 0 and 1.",
                hint="Use 0.2: the ratio may then move between 0.8 and 1.2.",
            )
        if not self.advantage_clip > 0:
            raise ConfigError(
                f"algorithm.advantage_clip is {self.advantage_clip}, but must be positive.",
                hint="Use 5: hardly any score is further from its group's mean.",
            )

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
        if not self.advantage_clip > 0:
            raise ConfigError(
                f"algorithm.advantage_clip is {self.advantage_clip}, but must be positive.",
                hint="Use 5: hardly any score is further from its group's mean.",
            )

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
