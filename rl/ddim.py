"""A step of DDIM, the sampler of Stable Diffusion 1.x, 2.x and XL, as a Gaussian, and the noising it undoes."""

from typing import Any

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor

from hitl.core.errors import ModelLoadError
from rl.gaussian import Schedule

_SETTINGS = (
    "prediction_type",
    "num_train_timesteps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "timestep_spacing",
    "steps_offset",
    "set_alpha_to_one",
    "rescale_betas_zero_snr",
)


class Ddim:
    """The process of a model of noise or of velocity: x_t = sqrt(alpha-bar) x_0 + sqrt(1 - alpha-bar) eps, and back."""

    sampler = "ddim"

    def __init__(self, scheduler_config: Any) -> None:
        predicts = scheduler_config.get("prediction_type", "epsilon")
        if predicts not in ("epsilon", "v_prediction"):
            raise ModelLoadError(
                f"The model predicts {predicts!r}, but only 'epsilon' and 'v_prediction' can be trained.",
                hint="Use a model of Stable Diffusion 1.x, 2.x or XL that predicts noise or velocity.",
            )
        self._predicts_velocity = predicts == "v_prediction"
        self._scheduler = DDIMScheduler.from_config(scheduler_config)
        self.levels: int = self._scheduler.config.num_train_timesteps

    @property
    def settings(self) -> dict[str, Any]:
        return {name: self._scheduler.config[name] for name in _SETTINGS}

    def schedule(self, steps: int, *, eta: float, window: int) -> Schedule:
        self._scheduler.set_timesteps(steps)
        timesteps = self._scheduler.timesteps.cpu()
        cumulative = self._scheduler.alphas_cumprod
        final = torch.as_tensor(self._scheduler.final_alpha_cumprod)
        return ddim_schedule(
            timesteps,
            alpha_bars(cumulative, final, timesteps),
            alpha_bars(cumulative, final, previous_timesteps(timesteps, self.levels)),
            eta=eta,
            window=window,
            predicts_velocity=self._predicts_velocity,
        )

    def noised(
        self, x_0: Float[Tensor, "batch c h w"], eps: Float[Tensor, "batch c h w"], levels: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch c h w"], Int[Tensor, "batch"], Float[Tensor, "batch c h w"]]:
        signal, noise = self._signal_and_noise(levels, x_0.device)
        target = signal * eps - noise * x_0 if self._predicts_velocity else eps
        return signal * x_0 + noise * eps, levels, target

    def clean(
        self, x_t: Float[Tensor, "batch c h w"], output: Float[Tensor, "batch c h w"], timesteps: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch c h w"]:
        signal, noise = self._signal_and_noise(timesteps, x_t.device)
        return signal * x_t - noise * output if self._predicts_velocity else (x_t - noise * output) / signal

    def _signal_and_noise(self, timesteps: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        # Not by the scheduler: its own add_noise moves the scheduler's table to the device of x_0 and leaves it there.
        alpha_bar = self._scheduler.alphas_cumprod.to(device)[timesteps].reshape(-1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def ddim_sigma(
    alpha_bar_t: Float[Tensor, "*batch"], alpha_bar_prev: Float[Tensor, "*batch"], *, eta: float
) -> Float[Tensor, "*batch"]:
    """Std of a step. DDIM (arXiv:2010.02502), Eq. (16)."""
    return eta * ((1 - alpha_bar_prev) / (1 - alpha_bar_t)).sqrt() * (1 - alpha_bar_t / alpha_bar_prev).sqrt()


def ddim_coefficients(
    alpha_bar_t: Float[Tensor, "batch"],
    alpha_bar_prev: Float[Tensor, "batch"],
    sigma: Float[Tensor, "batch"],
    *,
    predicts_velocity: bool,
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """The step's mean is the first times x_t plus the second times the output. DDIM (arXiv:2010.02502), Eq. (12).

    A velocity is v = sqrt(alpha-bar) eps - sqrt(1 - alpha-bar) x_0 (arXiv:2202.00512): x_0 and eps are linear in x_t
    and v with bounded coefficients, also where alpha-bar is 0.
    """
    towards_noise = (1 - alpha_bar_prev - sigma**2).clamp(min=0).sqrt()
    signal, noise = alpha_bar_t.sqrt(), (1 - alpha_bar_t).sqrt()
    if predicts_velocity:  # x_0 = signal x_t - noise v, eps = noise x_t + signal v
        x = alpha_bar_prev.sqrt() * signal + towards_noise * noise
        return x, towards_noise * signal - alpha_bar_prev.sqrt() * noise
    x = (alpha_bar_prev / alpha_bar_t).sqrt()  # x_0 = (x_t - noise eps) / signal, Eq. (9)
    return x, towards_noise - x * noise


def ddim_schedule(
    timesteps: Int[Tensor, "steps"],
    alpha_bar_t: Float[Tensor, "steps"],
    alpha_bar_prev: Float[Tensor, "steps"],
    *,
    eta: float,
    window: int,
    predicts_velocity: bool,
) -> Schedule:
    """The first `window` steps with noise, the rest without. In float64, as two of the coefficients are differences."""
    before, after = alpha_bar_t.double(), alpha_bar_prev.double()
    std = torch.where(torch.arange(len(before)) < window, ddim_sigma(before, after, eta=eta), 0.0)
    x, output = ddim_coefficients(before, after, std, predicts_velocity=predicts_velocity)
    return Schedule(timesteps=timesteps, x_coefficient=x.float(), output_coefficient=output.float(), std=std.float())


def previous_timesteps(timesteps: Int[Tensor, "steps"], train_timesteps: int) -> Int[Tensor, "steps"]:
    """The timestep each sampling step goes to; negative after the last, where the final alpha applies."""
    return timesteps - train_timesteps // len(timesteps)


def alpha_bars(
    alphas_cumprod: Float[Tensor, "train_steps"], final_alpha_cumprod: Float[Tensor, ""], timesteps: Int[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """alpha-bar at each timestep; the scheduler's final value where the timestep is negative (diffusers' rule)."""
    return torch.where(timesteps >= 0, alphas_cumprod[timesteps.clamp(min=0)], final_alpha_cumprod)
