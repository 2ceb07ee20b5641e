"""One step of a policy as a Gaussian whose mean is linear in the model's output: log-probability and KL."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The steps that draw an image: each goes from x to N(x_coefficient x + output_coefficient output, std^2 I).

    What the output is (the noise, the velocity) is the family's to know; a step's mean is linear in it in all of them.
    """

    timesteps: Tensor
    """Of each step, as the model takes them; (steps,)."""
    x_coefficient: Float[Tensor, "steps"]
    output_coefficient: Float[Tensor, "steps"]
    std: Float[Tensor, "steps"]
    """0: the step is deterministic."""

    def __len__(self) -> int:
        return len(self.timesteps)

    def first(self, count: int) -> "Schedule":
        return Schedule(
            timesteps=self.timesteps[:count],
            x_coefficient=self.x_coefficient[:count],
            output_coefficient=self.output_coefficient[:count],
            std=self.std[:count],
        )

    def to(self, device: torch.device) -> "Schedule":
        return Schedule(
            timesteps=self.timesteps.to(device),
            x_coefficient=self.x_coefficient.to(device),
            output_coefficient=self.output_coefficient.to(device),
            std=self.std.to(device),
        )


def step_mean(
    x: Float[Tensor, "batch *dims"],
    output: Float[Tensor, "batch *dims"],
    x_coefficient: Float[Tensor, "batch"],
    output_coefficient: Float[Tensor, "batch"],
) -> Float[Tensor, "batch *dims"]:
    """Mean of the next x, of steps that may differ from row to row."""
    shape = (-1, *[1] * (x.ndim - 1))
    return x_coefficient.reshape(shape) * x + output_coefficient.reshape(shape) * output


def gaussian_log_prob(
    x: Float[Tensor, "batch *dims"], mean: Float[Tensor, "batch *dims"], std: Float[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """log N(x; mean, std^2 I), *summed* over all but the batch axis.

    ddpo-pytorch averages instead, so its ratio is the paper's to the power 1/(c*h*w); its clip range of 1e-4 goes with
    that.
    """
    std = std.reshape(-1, *[1] * (x.ndim - 1))
    return (-((x - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)).flatten(1).sum(dim=1)


def gaussian_kl(
    mean: Float[Tensor, "batch *dims"], reference_mean: Float[Tensor, "batch *dims"], std: Float[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """KL(N(mean, std^2 I) || N(reference_mean, std^2 I)) in nats, *summed* over all but the batch axis.

    One term of the bound in Lemma 4.2 of DPOK (arXiv:2305.16381): both policies share the scheduler's std.
    """
    return ((mean - reference_mean) ** 2).flatten(1).sum(dim=1) / (2 * std**2)
