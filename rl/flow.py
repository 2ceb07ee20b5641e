"""A step of a flow-matching model, as Stable Diffusion 3, with noise: a Gaussian like a step of DDIM."""

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from jaxtyping import Float, Int
from torch import Tensor

from hitl.core.errors import ModelLoadError
from rl.gaussian import Schedule


class Flow:
    """The process of a model of the velocity eps - x_0: x_t = (1 - sigma) x_0 + sigma eps, and back."""

    sampler = "flow_match_euler"

    def __init__(self, scheduler_config: Any) -> None:
        self._scheduler = FlowMatchEulerDiscreteScheduler.from_config(scheduler_config)
        if self._scheduler.config.use_dynamic_shifting:
            raise ModelLoadError(
                "The model's schedule depends on the picture's size (use_dynamic_shifting), which is not supported.",
                hint="Use Stable Diffusion 3 or 3.5 as they are published.",
            )
        self.levels: int = self._scheduler.config.num_train_timesteps

    @property
    def settings(self) -> dict[str, Any]:
        return {name: self._scheduler.config[name] for name in ("num_train_timesteps", "shift")}

    def schedule(self, steps: int, *, eta: float, window: int) -> Schedule:
        self._scheduler.set_timesteps(steps)
        return flow_schedule(self._scheduler.timesteps.cpu(), self._scheduler.sigmas.cpu(), eta=eta, window=window)

    def noised(
        self, x_0: Float[Tensor, "batch c h w"], eps: Float[Tensor, "batch c h w"], levels: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch c h w"], Float[Tensor, "batch"], Float[Tensor, "batch c h w"]]:
        timesteps = levels.float() + 1  # level 0 has a little noise, the last nothing else
        sigma = (timesteps / self.levels).reshape(-1, 1, 1, 1)
        return (1 - sigma) * x_0 + sigma * eps, timesteps, eps - x_0

    def clean(
        self, x_t: Float[Tensor, "batch c h w"], output: Float[Tensor, "batch c h w"], timesteps: Float[Tensor, "batch"]
    ) -> Float[Tensor, "batch c h w"]:
        return x_t - (timesteps / self.levels).reshape(-1, 1, 1, 1) * output


def flow_schedule(
    timesteps: Float[Tensor, "steps"], sigmas: Float[Tensor, "steps_plus_1"], *, eta: float, window: int
) -> Schedule:
    """Euler steps of x' = v, the first `window` of them with noise that keeps the marginals where steps are small.

    Flow-GRPO (arXiv:2505.05470), its conversion of the ODE into an SDE, where x = (1 - sigma) x_0 + sigma eps and
    v = eps - x_0: with s = eta sqrt(sigma / (1 - sigma)) and dt = sigma' - sigma < 0,

        mean = x (1 + s^2 dt / (2 sigma)) + v (1 + s^2 (1 - sigma) / (2 sigma)) dt,  std = s sqrt(-dt).

    Where sigma is 1, s would be infinite: there the next sigma stands in s, as in the authors' code.
    """
    sigma, after = sigmas[:-1].double(), sigmas[1:].double()
    dt = after - sigma
    bounded = torch.where(sigma >= 1, after, sigma)
    s_squared = torch.where(torch.arange(len(sigma)) < window, eta**2 * sigma / (1 - bounded), 0.0)
    return Schedule(
        timesteps=timesteps,
        x_coefficient=(1 + s_squared * dt / (2 * sigma)).float(),
        output_coefficient=((1 + s_squared * (1 - sigma) / (2 * sigma)) * dt).float(),
        std=(s_squared * -dt).sqrt().float(),
    )
