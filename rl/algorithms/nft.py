"""DiffusionNFT (arXiv:2509.16117): learn from the forward process what good images have and bad ones lack."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from hitl.core.errors import ConfigError
from rl.advantages import group_advantages
from rl.algorithms.checks import require_advantage_clip, require_price
from rl.algorithms.contract import Denoised


@dataclass(frozen=True, slots=True, kw_only=True)
class Nft:
    """With d the old policy's output and r an image's share of goodness, from 0 to 1, a positive policy
    d + beta (output - d) shall denoise the image with weight r and a negative one d - beta (output - d) with 1 - r.

    Deviations: the old policy is the one that drew the epoch's images, not a moving average; the images may be drawn
    with guidance, though none is learned with.
    """

    learns_from_reference: ClassVar[bool] = False

    beta: float = 1.0
    """How far the positive and the negative policy stand from the old one, in steps of the new one."""
    advantage_clip: float = 5.0
    """Advantages of so many standard deviations make an image good or bad altogether."""
    kl_weight: float = 1e-4
    """The price of the mean square distance to the reference's output."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ConfigError(f"algorithm.beta is {self.beta}, but must be positive.", hint="Use 1, or 0.1 as theirs.")
        require_advantage_clip(self.advantage_clip)
        require_price("kl_weight", self.kl_weight)

    def image_weights(self, scores: Float[Tensor, "groups members"]) -> Float[Tensor, "groups members"]:
        """r, the paper's optimality probability."""
        return group_advantages(scores, clip=self.advantage_clip) / self.advantage_clip / 2 + 0.5

    def loss(self, denoised: Denoised) -> Float[Tensor, ""]:
        step = self.beta * (denoised.output - denoised.drawn)
        good = self._distance(denoised, denoised.drawn + step)
        bad = self._distance(denoised, denoised.drawn - step)
        share = denoised.weights
        return (
            self.advantage_clip * (share * good + (1 - share) * bad).mean() / self.beta
            + self.kl_weight * denoised.reference_distance.mean()
        )

    def _distance(self, denoised: Denoised, output: Tensor) -> Float[Tensor, "batch"]:
        """Mean square of the image's error over its own mean size: steps of all levels of noise then count alike."""
        error = denoised.clean_per_output.reshape(-1, 1, 1, 1) * (output - denoised.target)
        size = error.detach().abs().flatten(1).mean(dim=1).clamp(min=1e-5)
        return error.square().flatten(1).mean(dim=1) / size
