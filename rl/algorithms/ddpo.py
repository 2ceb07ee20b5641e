"""DDPO (arXiv:2305.13301): importance sampled (IS) and score function (SF). No KL: the reference is only measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from hitl.core.errors import ConfigError
from rl.advantages import group_advantages, remembered_advantages
from rl.algorithms.checks import require_advantage_clip, require_clip_range
from rl.algorithms.contract import Steps
from rl.losses import ppo_clip_loss, score_function_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class DdpoIs:
    """DDPO_IS, Eq. (5): the clipped ratio of summed log-probabilities."""

    has_group_baseline: ClassVar[bool] = True
    has_ratio: ClassVar[bool] = True
    uses_reference: ClassVar[bool] = False

    clip_range: float = 0.2
    """How far the one-step policy ratio may move before its gradient stops."""
    advantage_clip: float = 5.0
    """Advantages are cut off here, in standard deviations."""
    memory: int = 0
    """Scale and centre by the last so many scores of each prompt, this epoch's among them; the authors' is 32. 0: by
    the prompt's mean in this epoch, and one scale for all."""
    memory_least: int = 16
    """A prompt with fewer scores than this so far is centred and scaled by the whole epoch's."""

    def __post_init__(self) -> None:
        require_clip_range(self.clip_range)
        require_advantage_clip(self.advantage_clip)
        _require_memory(self.memory, self.memory_least)

    def advantages(
        self, scores: Float[Tensor, "groups members"], prompts: Sequence[str], memory: dict[str, list[float]]
    ) -> Float[Tensor, "groups members"]:
        return _advantages(scores, prompts, memory, self.memory, self.memory_least, self.advantage_clip)

    def log_ratio_range(self, dims: int) -> float:
        return math.log1p(self.clip_range)

    def loss(self, steps: Steps) -> Float[Tensor, ""]:
        return ppo_clip_loss(
            steps.log_prob, steps.old_log_prob, steps.advantages, clip_range=self.clip_range, weights=steps.weights
        )

    def next_kl_scale(self, scale: float, kl: float) -> float:
        return 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DdpoSf:
    """DDPO_SF, Eq. (4): the score function alone; right for one update on fresh samples."""

    has_group_baseline: ClassVar[bool] = True
    has_ratio: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False

    advantage_clip: float = 5.0
    """Advantages are cut off here, in standard deviations."""
    memory: int = 0
    """Scale and centre by the last so many scores of each prompt, this epoch's among them; the authors' is 32. 0: by
    the prompt's mean in this epoch, and one scale for all."""
    memory_least: int = 16
    """A prompt with fewer scores than this so far is centred and scaled by the whole epoch's."""

    def __post_init__(self) -> None:
        require_advantage_clip(self.advantage_clip)
        _require_memory(self.memory, self.memory_least)

    def advantages(
        self, scores: Float[Tensor, "groups members"], prompts: Sequence[str], memory: dict[str, list[float]]
    ) -> Float[Tensor, "groups members"]:
        return _advantages(scores, prompts, memory, self.memory, self.memory_least, self.advantage_clip)

    def log_ratio_range(self, dims: int) -> float:
        return math.inf

    def loss(self, steps: Steps) -> Float[Tensor, ""]:
        return score_function_loss(steps.log_prob, steps.advantages, weights=steps.weights)

    def next_kl_scale(self, scale: float, kl: float) -> float:
        return 1.0


def _advantages(
    scores: Float[Tensor, "groups members"],
    prompts: Sequence[str],
    memory: dict[str, list[float]],
    size: int,
    least: int,
    clip: float,
) -> Float[Tensor, "groups members"]:
    if not size:
        return group_advantages(scores, clip=clip)
    return remembered_advantages(scores, prompts, memory, size=size, least=least, clip=clip)


def _require_memory(size: int, least: int) -> None:
    if size and not 2 <= least <= size:
        raise ConfigError(
            f"algorithm.memory_least is {least}, but must be between 2 and algorithm.memory = {size}.",
            hint="Use algorithm.memory = 32 and algorithm.memory_least = 16, or algorithm.memory = 0 for none.",
        )
