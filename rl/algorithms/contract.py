"""What the kinds of algorithm are given and what they offer: four that learn, and one that does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from rl.algorithms.best_of_n import BestOfN


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Transitions as the present policy sees them, one number each."""

    log_prob: Float[Tensor, "batch"]
    """Under the present policy, summed over the latent, with a gradient."""
    old_log_prob: Float[Tensor, "batch"]
    """Under the policy that drew them."""
    advantages: Float[Tensor, "batch"]
    weights: Float[Tensor, "batch"]
    """Of the step in the policy's loss (`train.level_steps`)."""
    kl: Float[Tensor, "batch"]
    """One-step KL to the reference in nats, with a gradient: `kl_per_distance` x the outputs' squared distance."""
    kl_per_distance: Float[Tensor, "batch"]
    """c^2 / (2 std^2), c the coefficient of the model's output in the step's mean."""
    output_mse: Float[Tensor, "batch"]
    """Mean square of the difference between the policy's output and the reference's, with a gradient."""
    dims: int
    """Numbers in one latent."""
    kl_scale: float
    """What an adaptive price of the KL has been multiplied with so far; 1 at first."""


@runtime_checkable
class PolicyGradient(Protocol):
    """Learns from the steps that drew an image: `rl.policy_gradient`. Pure functions of one frozen configuration."""

    has_group_baseline: ClassVar[bool]
    """Whether `advantages` has subtracted the group's mean, so that a value function only adds to it."""
    has_ratio: ClassVar[bool]
    """Whether the loss weighs a step by how much likelier it is now: without it only fresh samples teach the truth."""
    uses_reference: ClassVar[bool]
    """Whether the loss asks for the reference's output; else it is computed for a few steps alone, to measure the KL,
    and `Steps.kl` and `output_mse` of the others are nan."""

    def advantages(
        self, scores: Float[Tensor, "groups members"], prompts: Sequence[str], memory: dict[str, list[float]]
    ) -> Float[Tensor, "groups members"]:
        """Of an epoch's scores. `memory` goes from epoch to epoch of a round, for what an algorithm remembers of each
        prompt; one that remembers nothing leaves it alone."""
        ...

    def log_ratio_range(self, dims: int) -> float:
        """How far a step's log-probability, summed over the latent's `dims` numbers, may rise before its gradient
        stops, in nats; infinite without a clip."""
        ...

    def loss(self, steps: Steps) -> Float[Tensor, ""]: ...

    def next_kl_scale(self, scale: float, kl: float) -> float:
        """The next epoch's `kl_scale`, from this one's and its KL per step in nats; 1 without a budget."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Denoised:
    """Images of an epoch with noise added, and what the model says of them: the noise, or the velocity."""

    output: Float[Tensor, "batch c h w"]
    """The present policy's, with a gradient."""
    target: Float[Tensor, "batch c h w"]
    """What was really added."""
    drawn: Float[Tensor, "batch c h w"]
    """The output of the policy that drew the images."""
    reference: Float[Tensor, "batch c h w"]
    """The output of the reference."""
    clean_per_output: Float[Tensor, "batch"]
    """How far the image that an output means moves with the output."""
    weights: Float[Tensor, "batch"]
    """Of the image (`image_weights`)."""

    @property
    def error(self) -> Float[Tensor, "batch"]:
        """Mean square of the output less its target, with a gradient."""
        return (self.output - self.target).square().flatten(1).mean(dim=1)

    @property
    def reference_distance(self) -> Float[Tensor, "batch"]:
        """Mean square of the output less the reference's, with a gradient."""
        return (self.output - self.reference).square().flatten(1).mean(dim=1)


@runtime_checkable
class Regression(Protocol):
    """Learns to denoise the images themselves, the better ones more: `rl.regression`. No step has a probability."""

    learns_from_reference: ClassVar[bool]
    """Whether the images are drawn by the reference, not by the policy."""

    def image_weights(self, scores: Float[Tensor, "groups members"]) -> Float[Tensor, "groups members"]: ...

    def loss(self, denoised: Denoised) -> Float[Tensor, ""]: ...


@runtime_checkable
class Preference(Protocol):
    """Learns from comparisons of images, without a reward: `rl.preferences`."""

    learns_from_steps: ClassVar[bool]
    """Whether an image gains by the steps that drew it, which must then have noise; else by being denoised."""

    def loss(
        self, first: Float[Tensor, "batch"], second: Float[Tensor, "batch"], outcome: Int[Tensor, "batch"]
    ) -> Float[Tensor, ""]:
        """Of what each image of a comparison gains on the reference, with a gradient, and who is better: 1 the first,
        -1 the second, 0 neither."""
        ...


@runtime_checkable
class Backpropagation(Protocol):
    """Learns by the gradient of a differentiable reward: `rl.backpropagation`."""

    jumps: ClassVar[bool]
    """Whether one of the last steps goes straight to the image it means; else the gradient goes through all of them."""

    @property
    def last_steps(self) -> int:
        """How many; 0: all."""
        ...

    @property
    def gradient_cap(self) -> float:
        """Largest norm of the loss's gradient in one image's latent."""
        ...

    @property
    def denoising_weight(self) -> float:
        """Of the mean square error in denoising the reference's images."""
        ...

    def loss(self, scores: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]: ...


Algorithm = PolicyGradient | Regression | Backpropagation | Preference | BestOfN
"""What an entry of the registry of algorithms is."""
