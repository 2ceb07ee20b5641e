"""One step of DDIM as a Gaussian policy: its mean and standard deviation, log-probability, and KL. Pure functions."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def ddim_sigma(
    alpha_bar_t: Float[Tensor, "*batch"], alpha_bar_prev: Float[Tensor, "*batch"], *, eta: float
) -> Float[Tensor, "*batch"]:
    """Std of a step. DDIM (arXiv:2010.02502), Eq. (16)."""
    return eta * ((1 - alpha_bar_prev) / (1 - alpha_bar_t)).sqrt() * (1 - alpha_bar_t / alpha_bar_prev).sqrt()


def ddim_mean_std(
    x_t: Float[Tensor, "batch c h w"],
    eps: Float[Tensor, "batch c h w"],
    alpha_bar_t: Float[Tensor, "batch"],
    alpha_bar_prev: Float[Tensor, "batch"],
    *,
    eta: float,
) -> tuple[Float[Tensor, "batch c h w"], Float[Tensor, "batch"]]:
    """Mean and std of x_{t-1} given x_t. DDIM (arXiv:2010.02502), Eqs. (12) and (16).

    Deviations: none.
    """
    a_t, a_prev = (a.reshape(-1, 1, 1, 1) for a in (alpha_bar_t, alpha_bar_prev))
    sigma = ddim_sigma(a_t, a_prev, eta=eta)
    x_0 = (x_t - (1 - a_t).sqrt() * eps) / a_t.sqrt()  # Eq. (9)
    return a_prev.sqrt() * x_0 + (1 - a_prev - sigma**2).sqrt() * eps, sigma.flatten()  # Eq. (12)


def eps_coefficient(
    alpha_bar_t: Float[Tensor, "batch"], alpha_bar_prev: Float[Tensor, "batch"], *, eta: float
) -> Float[Tensor, "batch"]:
    """c_eps in mean = c_x x_t + c_eps eps: how far the mean moves with the predicted noise. Negative."""
    sigma_squared = eta**2 * (1 - alpha_bar_prev) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_prev)
    return (1 - alpha_bar_prev - sigma_squared).sqrt() - (alpha_bar_prev / alpha_bar_t).sqrt() * (
        1 - alpha_bar_t
    ).sqrt()


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


def previous_timesteps(timesteps: Int[Tensor, "steps"], train_timesteps: int) -> Int[Tensor, "steps"]:
    """The timestep each sampling step goes to; negative after the last, where the final alpha applies."""
    return timesteps - train_timesteps // len(timesteps)


def alpha_bars(
    alphas_cumprod: Float[Tensor, "train_steps"], final_alpha_cumprod: Float[Tensor, ""], timesteps: Int[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """alpha-bar at each timestep; the scheduler's final value where the timestep is negative (diffusers' rule)."""
    return torch.where(timesteps >= 0, alphas_cumprod[timesteps.clamp(min=0)], final_alpha_cumprod)
