"""Draw images from a policy, and keep what training needs: the states and log-probabilities of the stochastic steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from hitl.core.errors import ConfigError
from rl.config import SampleConfig
from rl.ddim import ddim_mean_std, ddim_sigma, gaussian_log_prob
from rl.families.sd15 import StableDiffusion15
from rl.randomness import generator

SMALLEST_SIGMA = 1e-4
"""Steps with a smaller std have no usable log-probability and are drawn, but not trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """Images of one epoch and the transitions that made them; images of one group are neighbours."""

    prompts: list[str]
    """One per image."""
    images: UInt8[Tensor, "batch 3 height width"]
    states: Float[Tensor, "batch window_plus_1 c h w"]
    """Latents before each stochastic step, and after the last one."""
    latents: Float[Tensor, "batch c h w"]
    """Of the finished images."""
    log_probs: Float[Tensor, "batch window"]
    timesteps: Int[Tensor, "window"]
    alpha_bar: Float[Tensor, "window"]
    alpha_bar_prev: Float[Tensor, "window"]


def collect(
    family: StableDiffusion15, prompts: Sequence[str], members: int, config: SampleConfig, place: tuple[object, ...]
) -> Trajectory:
    """Draw `members` images of each prompt; `place` names the randomness (seed, round, epoch, ...).

    Raises:
        ConfigError: no step of the window has noise enough to be trained.
    """
    timesteps, before, after = family.schedule(config.steps)
    largest = float(ddim_sigma(before[: config.window], after[: config.window], eta=config.eta).max())
    if largest <= SMALLEST_SIGMA:
        raise ConfigError(
            f"No step can be trained: with sample.eta = {config.eta:g} the noise of the first {config.window} steps "
            f"is {largest:.2g} at most, but must be above {SMALLEST_SIGMA:g}.",
            hint="Set sample.eta = 1.0.",
        )
    initial, noise_seeds = [], []
    for group in range(len(prompts)):
        start = torch.randn((1, *family.latent_shape), generator=generator(*place, "start", group))
        if config.shared_noise:
            initial.append(start.expand(members, *family.latent_shape))
        else:
            more = torch.randn((members - 1, *family.latent_shape), generator=generator(*place, "more", group))
            initial.append(torch.cat([start, more]))
        if config.antithetic:  # a member and its neighbour have one noise, once as it is and once negated
            noise_seeds += [(*place, "steps", group, member // 2) for member in range(members)]
        else:
            noise_seeds += [(*place, "steps", group, member) for member in range(members)]
    x = torch.cat(initial)
    names = [prompt for prompt in prompts for _ in range(members)]
    signs = [-1.0 if config.antithetic and member % 2 else 1.0 for _ in prompts for member in range(members)]
    starts = torch.arange(len(names)) // (members if config.shared_noise else 1)
    parts = [
        _draw_batch(
            family,
            names[i : i + config.batch_size],
            x[i : i + config.batch_size],
            starts[i : i + config.batch_size],
            config,
            noise_seeds[i : i + config.batch_size],
            signs[i : i + config.batch_size],
        )
        for i in range(0, len(names), config.batch_size)
    ]
    kept = parts[0][2].shape[1]
    return Trajectory(
        prompts=names,
        images=torch.cat([part[0] for part in parts]),
        states=torch.cat([part[1] for part in parts]),
        log_probs=torch.cat([part[2] for part in parts]),
        latents=torch.cat([part[3] for part in parts]),
        timesteps=timesteps[:kept],
        alpha_bar=before[:kept],
        alpha_bar_prev=after[:kept],
    )


@torch.no_grad()
def _draw_batch(
    family: StableDiffusion15,
    prompts: Sequence[str],
    x: Float[Tensor, "batch c h w"],
    starts: Int[Tensor, "batch"],
    config: SampleConfig,
    noise_seeds: Sequence[tuple[object, ...]],
    signs: Sequence[float],
) -> tuple[
    UInt8[Tensor, "batch 3 height width"],
    Float[Tensor, "batch states c h w"],
    Float[Tensor, "batch window"],
    Float[Tensor, "batch c h w"],
]:
    text = family.encode(prompts)
    timesteps, before, after = family.schedule(config.steps)
    noise = torch.stack(
        [
            sign * torch.randn((config.window, *family.latent_shape), generator=generator(*seed))
            for sign, seed in zip(signs, noise_seeds, strict=True)
        ],
        dim=1,
    )
    x = x.to(family.device)
    states, log_probs = [x], []
    # Neighbours of one start are one and the same until the first noise: their prediction is needed once.
    _, start, counts = torch.unique_consecutive(starts, return_inverse=True, return_counts=True)
    first, every = counts.cumsum(0) - counts, torch.arange(len(x))
    batch = len(x)
    for i, t in enumerate(timesteps):
        rows, of = (first, start) if i == 0 else (every, every)
        times = t.expand(len(rows)).to(family.device)
        eps = family.predict_noise(x[rows], times, text[rows], guidance=config.guidance)[of]
        is_stochastic = i < config.window
        mean, std = ddim_mean_std(
            x,
            eps,
            before[i].expand(batch).to(family.device),
            after[i].expand(batch).to(family.device),
            eta=config.eta if is_stochastic else 0.0,
        )
        if is_stochastic and float(std[0]) > SMALLEST_SIGMA:
            # Latents stay float32, so what is stored is what the log-probability was computed from.
            x = mean + std.reshape(-1, 1, 1, 1) * noise[i].to(family.device)
            log_probs.append(gaussian_log_prob(x, mean, std))
            states.append(x)
        else:
            x = mean
    return family.decode(x), torch.stack(states, dim=1), torch.stack(log_probs, dim=1), x


@torch.no_grad()
def draw(
    family: StableDiffusion15,
    prompts: Sequence[str],
    *,
    steps: int,
    guidance: float,
    seeds: Sequence[tuple[object, ...]],
    batch_size: int,
) -> UInt8[Tensor, "batch 3 height width"]:
    """Draw one image per prompt with deterministic DDIM (eta = 0), each from the initial noise its seed names."""
    timesteps, before, after = family.schedule(steps)
    images = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        text = family.encode(prompts[part])
        x = torch.stack([torch.randn(family.latent_shape, generator=generator(*seed)) for seed in seeds[part]]).to(
            family.device
        )
        batch = len(x)
        for t, a_t, a_prev in zip(timesteps, before, after, strict=True):
            eps = family.predict_noise(x, t.expand(batch).to(family.device), text, guidance=guidance)
            x, _ = ddim_mean_std(
                x, eps, a_t.expand(batch).to(family.device), a_prev.expand(batch).to(family.device), eta=0.0
            )
        images.append(family.decode(x))
    return torch.cat(images)
