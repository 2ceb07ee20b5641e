"""DPOK (arXiv:2305.16381): policy gradient with the KL to the pretrained model, PPO clip on the one-step ratio."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from hitl.core.errors import ConfigError
from rl.advantages import group_advantages
from rl.algorithms.checks import require_advantage_clip, require_clip_range
from rl.losses import ppo_clip_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Dpok:
    """DPOK with the exact one-step Gaussian KL in nats.

    Deviations from the authors' code (`docs/algorithms/dpok.md`): the ratio is that of summed log-probabilities, the
    surrogate has PPO's pessimistic maximum, and the KL is the Gaussian one, not the mean square of the noise.
    """

    clip_range: float = 0.2
    """How far the one-step policy ratio may move before its gradient stops."""
    kl_weight: float = 0.01
    """beta: the price of one nat of one-step KL to the reference, in units of normalised advantage."""
    advantage_clip: float = 5.0
    """Advantages are cut off here, in standard deviations."""

    def __post_init__(self) -> None:
        require_clip_range(self.clip_range)
        if not self.kl_weight >= 0:
            raise ConfigError(
                f"algorithm.kl_weight is {self.kl_weight}, but a price cannot be negative.", hint="Use 0 for no KL."
            )
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
        """DPOK, Eq. (5) as PPO: weighted clipped surrogate + beta KL."""
        surrogate = ppo_clip_loss(log_prob, old_log_prob, advantages, clip_range=self.clip_range, weights=weights)
        return surrogate + self.kl_weight * kl.mean()
