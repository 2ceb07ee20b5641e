"""Backpropagation of a differentiable reward: DRaFT and ReFL."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from hitl.core.errors import ConfigError
from rl.algorithms.checks import require_price


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """DRaFT-K (arXiv:2309.17400): the score's gradient through the last K steps of drawing, or through all of them.

    Deviations: each image's gradient is cut off (`gradient_cap`): a few images whose score is steep would decide alone.
    """

    jumps: ClassVar[bool] = False

    last_steps: int = 0
    """K; 0: all steps. Each step more costs its activations in memory, and the first decide what is where."""
    gradient_cap: float = 0.3
    """Largest norm of the score's gradient in one image's latent."""
    denoising_weight: float = 0.0
    """Of the mean square error in denoising the reference's images, which keeps the policy near them."""

    def __post_init__(self) -> None:
        _require(self.last_steps, self.gradient_cap, self.denoising_weight, fewest_steps=0, meaning="0: all steps")

    def loss(self, scores: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        return -scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Refl:
    """ReFL (arXiv:2304.05977), section 4: the score of the image that one late step, chosen at random, means.

    With its denoising loss, which the authors' code has not. They denoise images of the pretraining;
    here it is the reference's own images that are denoised, as a project has no others.

    Deviations: drawing and learning are guided, theirs not; `gradient_cap` as in DRaFT.
    """

    jumps: ClassVar[bool] = True

    last_steps: int = 3
    """The step is one of the last so many; theirs of 40 steps the last 10."""
    ceiling: float = 2.0
    """A score above it teaches nothing: the loss is max(ceiling - score, 0)."""
    gradient_cap: float = 0.3
    """Largest norm of the score's gradient in one image's latent."""
    denoising_weight: float = 1.0
    """Of the mean square error in denoising the reference's images."""

    def __post_init__(self) -> None:
        _require(self.last_steps, self.gradient_cap, self.denoising_weight, fewest_steps=1, meaning="3: the last three")

    def loss(self, scores: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        return (self.ceiling - scores).clamp(min=0)


def _require(last_steps: int, gradient_cap: float, denoising_weight: float, *, fewest_steps: int, meaning: str) -> None:
    if last_steps < fewest_steps:
        raise ConfigError(
            f"algorithm.last_steps is {last_steps}, but must be {fewest_steps} or more.", hint=f"Use {meaning}."
        )
    if not gradient_cap > 0:
        raise ConfigError(f"algorithm.gradient_cap is {gradient_cap}, but must be positive.", hint="Use 0.3.")
    require_price("denoising_weight", denoising_weight)
