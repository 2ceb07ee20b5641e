"""Direct preference optimisation of diffusion models: Diffusion-DPO and D3PO, from comparisons and their ties."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from hitl.core.errors import ConfigError
from rl.algorithms.checks import require_price
from rl.losses import davidson_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionDpo:
    """Diffusion-DPO (arXiv:2311.12908), Eq. (14): the better image shall gain more on the reference than the other.

    An image gains by being denoised with a smaller square error than the reference's, summed over the latent.

    Deviations: ties teach too, by the model of Davidson. The authors average the error over the latent, and their 5000,
    with a factor 1/2, is 2500 / 16384 of the sum where they use it, on latents of Stable Diffusion 1.5.
    """

    learns_from_steps: ClassVar[bool] = False

    beta: float = 0.15
    """Log-odds of the better image for each unit of error that it gains on the reference and the other does not."""
    tie_odds: float = 0.5
    """nu: of two images that gained alike, how likely a tie is beside either being preferred. 0: ties say nothing."""

    def __post_init__(self) -> None:
        _require(self.beta, self.tie_odds, usual=0.15)

    def loss(
        self,
        first: Float[Tensor, "batch"],
        second: Float[Tensor, "batch"],
        outcome: Int[Tensor, "batch"],
    ) -> Float[Tensor, ""]:
        return davidson_loss(self.beta * (first - second), outcome, tie_odds=self.tie_odds)


@dataclass(frozen=True, slots=True, kw_only=True)
class D3po:
    """D3PO (arXiv:2311.13231): every step that drew the better image shall gain on the reference.

    A step gains by being likelier than under the reference, in nats.

    Deviations: the log-ratio is summed over the latent, where the authors average it; it is not cut off at 0.1 of
    theirs, which are hundreds of nats here; two images need not start from one latent; ties teach too.
    """

    learns_from_steps: ClassVar[bool] = True

    beta: float = 0.1
    """Log-odds of the better image for each nat that a step of its drawing gains and the other's does not."""
    tie_odds: float = 0.5
    """nu: of two images that gained alike, how likely a tie is beside either being preferred. 0: ties say nothing."""

    def __post_init__(self) -> None:
        _require(self.beta, self.tie_odds, usual=0.1)

    def loss(
        self,
        first: Float[Tensor, "batch"],
        second: Float[Tensor, "batch"],
        outcome: Int[Tensor, "batch"],
    ) -> Float[Tensor, ""]:
        return davidson_loss(self.beta * (first - second), outcome, tie_odds=self.tie_odds)


def _require(beta: float, tie_odds: float, *, usual: float) -> None:
    if not beta > 0:
        raise ConfigError(f"algorithm.beta is {beta}, but must be positive.", hint=f"Use {usual:g}.")
    require_price("tie_odds", tie_odds)
