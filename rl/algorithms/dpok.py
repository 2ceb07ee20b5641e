"""DPOK (arXiv:2305.16381): policy gradient with the KL to the pretrained model, by our rules and by its authors'."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from hitl.core.errors import ConfigError
from rl.advantages import group_advantages
from rl.algorithms.checks import require_advantage_clip, require_clip_range, require_price
from rl.algorithms.contract import Steps
from rl.losses import clamped_ratio_loss, ppo_clip_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Dpok:
    """DPOK with the exact one-step Gaussian KL in nats.

    Deviations from the authors' code (`docs/algorithms/dpok.md`): the ratio is that of summed log-probabilities, the
    surrogate has PPO's pessimistic maximum, and the KL is the Gaussian one, not the mean square of the noise.
    """

    has_group_baseline: ClassVar[bool] = True
    has_ratio: ClassVar[bool] = True
    uses_reference: ClassVar[bool] = True

    clip_range: float = 0.2
    """How far the one-step policy ratio may move before its gradient stops."""
    kl_weight: float = 0.01
    """beta: the price of one nat of one-step KL to the reference, in units of normalised advantage."""
    kl_cap: float = 0.0
    """Largest price factor c_eps^2 / (2 sigma^2) that a step's KL is charged at; 0 charges all of it. The last but one
    step's is by far the largest."""
    kl_target: float = 0.0
    """Nats per step that the policy may move: kl_weight is doubled or halved to stay near it. 0 leaves it alone."""
    advantage_clip: float = 5.0
    """Advantages are cut off here, in standard deviations."""

    def __post_init__(self) -> None:
        require_clip_range(self.clip_range)
        for name in ("kl_weight", "kl_cap", "kl_target"):
            require_price(name, getattr(self, name))
        if self.kl_target > 0 and self.kl_weight == 0:
            raise ConfigError(
                f"algorithm.kl_target is {self.kl_target}, but a kl_weight of 0 stays 0 when it is doubled.",
                hint="Use algorithm.kl_weight = 0.01 to begin with, or algorithm.kl_target = 0.",
            )
        require_advantage_clip(self.advantage_clip)

    def advantages(
        self, scores: Float[Tensor, "groups members"], prompts: Sequence[str], memory: dict[str, list[float]]
    ) -> Float[Tensor, "groups members"]:
        return group_advantages(scores, clip=self.advantage_clip)

    def log_ratio_range(self, dims: int) -> float:
        return math.log1p(self.clip_range)

    def loss(self, steps: Steps) -> Float[Tensor, ""]:
        """DPOK, Eq. (5) as PPO: weighted clipped surrogate + beta KL."""
        surrogate = ppo_clip_loss(
            steps.log_prob, steps.old_log_prob, steps.advantages, clip_range=self.clip_range, weights=steps.weights
        )
        kl = steps.kl
        if self.kl_cap > 0:
            kl = kl * (self.kl_cap / steps.kl_per_distance).clamp(max=1)
        scale = steps.kl_scale if self.kl_target > 0 else 1.0
        return surrogate + self.kl_weight * scale * kl.mean()

    def next_kl_scale(self, scale: float, kl: float) -> float:
        """The rule of PPO's adaptive penalty (arXiv:1707.06347, section 4), from 1/1024 to 1024.

        A policy that is still the reference, but for rounding, has spent nothing of its budget yet, and says nothing of
        the price.
        """
        if self.kl_target == 0:
            return 1.0
        if kl > 1.5 * self.kl_target:
            return min(2 * scale, 1024.0)
        return max(scale / 2, 1 / 1024) if self.kl_target / 1000 < kl < self.kl_target / 1.5 else scale


@dataclass(frozen=True, slots=True, kw_only=True)
class DpokAuthors:
    """The loss of the authors' code: - alpha (R - V) clamp(ratio) + beta mean((eps - eps_ref)^2).

    The ratio is that of log-probabilities averaged over the latent, its clamp has no pessimistic maximum, the score is
    neither centred nor scaled, and steps are weighted alike. With `train.value_function` off, V is 0, as theirs.
    """

    has_group_baseline: ClassVar[bool] = False
    has_ratio: ClassVar[bool] = True
    uses_reference: ClassVar[bool] = True

    clip_range: float = 1e-4
    """How far the ratio of *averaged* log-probabilities may move: clip_range x latent size in nats."""
    reward_weight: float = 10.0
    """alpha: the weight of the score."""
    kl_weight: float = 0.01
    """beta: the price of the mean square difference of the noises."""

    def __post_init__(self) -> None:
        require_clip_range(self.clip_range, usual=1e-4)
        for name in ("reward_weight", "kl_weight"):
            require_price(name, getattr(self, name))

    def advantages(
        self, scores: Float[Tensor, "groups members"], prompts: Sequence[str], memory: dict[str, list[float]]
    ) -> Float[Tensor, "groups members"]:
        return scores.float()

    def log_ratio_range(self, dims: int) -> float:
        return dims * math.log1p(self.clip_range)

    def loss(self, steps: Steps) -> Float[Tensor, ""]:
        surrogate = clamped_ratio_loss(
            steps.log_prob / steps.dims, steps.old_log_prob / steps.dims, steps.advantages, clip_range=self.clip_range
        )
        return self.reward_weight * surrogate + self.kl_weight * steps.output_mse.mean()

    def next_kl_scale(self, scale: float, kl: float) -> float:
        return 1.0
