"""Draw images from a policy, and keep what training needs: the states and log-probabilities of the stochastic steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from hitl.core.errors import ConfigError
from rl.config import SampleConfig
from rl.families.family import Family
from rl.gaussian import Schedule, gaussian_log_prob, step_mean
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
    schedule: Schedule
    """Of the stochastic steps."""


def collect(
    family: Family,
    prompts: Sequence[str],
    members: int,
    config: SampleConfig,
    place: tuple[object, ...],
    first_group: int = 0,
) -> Trajectory:
    """Draw `members` images of each prompt; `place` names the randomness (seed, round, epoch, ...).

    Where several processes share an epoch, `first_group` is how many of its prompts come before these.

    Raises:
        ConfigError: no step of the window has noise enough to be trained.
    """
    schedule = family.process.schedule(config.steps, eta=config.eta, window=config.window)
    largest = float(schedule.std.max())
    if largest <= SMALLEST_SIGMA:
        raise ConfigError(
            f"No step can be trained: with sample.eta = {config.eta:g} the noise of the first {config.window} steps "
            f"is {largest:.2g} at most, but must be above {SMALLEST_SIGMA:g}.",
            hint="Set sample.eta = 1.0.",
        )
    initial, noise_seeds = [], []
    for group in range(first_group, first_group + len(prompts)):
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
    names: list[str] = [prompt for prompt in prompts for _ in range(members)]
    signs = [-1.0 if config.antithetic and member % 2 else 1.0 for _ in prompts for member in range(members)]
    starts = torch.arange(len(names)) // (members if config.shared_noise else 1)
    return _follow(family, names, x, starts, schedule, config.guidance, noise_seeds, signs, config.batch_size)


def trace(
    family: Family,
    prompts: Sequence[str],
    schedule: Schedule,
    *,
    guidance: float,
    seeds: Sequence[tuple[object, ...]],
    batch_size: int,
) -> Trajectory:
    """Draw one image of each prompt; its seed names where it starts and the noise of its steps."""
    x = torch.stack([torch.randn(family.latent_shape, generator=generator(*seed)) for seed in seeds])
    noise_seeds = [(*seed, "steps") for seed in seeds]
    starts, signs = torch.arange(len(x)), [1.0] * len(x)
    return _follow(family, [*prompts], x, starts, schedule, guidance, noise_seeds, signs, batch_size)


def draw(
    family: Family,
    prompts: Sequence[str],
    *,
    steps: int,
    guidance: float,
    seeds: Sequence[tuple[object, ...]],
    batch_size: int,
    eta: float = 0.0,
    window: int = 0,
) -> UInt8[Tensor, "batch 3 height width"]:
    """Images as `trace` draws them: by default without noise in the steps."""
    schedule = family.process.schedule(steps, eta=eta, window=window)
    return trace(family, prompts, schedule, guidance=guidance, seeds=seeds, batch_size=batch_size).images


def _follow(
    family: Family,
    prompts: list[str],
    x: Float[Tensor, "batch c h w"],
    starts: Int[Tensor, "batch"],
    schedule: Schedule,
    guidance: float,
    noise_seeds: Sequence[tuple[object, ...]],
    signs: Sequence[float],
    batch_size: int,
) -> Trajectory:
    """Follow the schedule from each x. Images of one start, which are neighbours, share its number in `starts`."""
    parts = [
        _follow_batch(
            family,
            prompts[i : i + batch_size],
            x[i : i + batch_size],
            starts[i : i + batch_size],
            schedule,
            guidance,
            noise_seeds[i : i + batch_size],
            signs[i : i + batch_size],
        )
        for i in range(0, len(prompts), batch_size)
    ]
    return Trajectory(
        prompts=prompts,
        images=torch.cat([part[0] for part in parts]),
        states=torch.cat([part[1] for part in parts]),
        log_probs=torch.cat([part[2] for part in parts]),
        latents=torch.cat([part[3] for part in parts]),
        schedule=schedule.first(parts[0][2].shape[1]),
    )


@torch.no_grad()
def _follow_batch(
    family: Family,
    prompts: list[str],
    x: Float[Tensor, "batch c h w"],
    starts: Int[Tensor, "batch"],
    schedule: Schedule,
    guidance: float,
    noise_seeds: Sequence[tuple[object, ...]],
    signs: Sequence[float],
) -> tuple[
    UInt8[Tensor, "batch 3 height width"],
    Float[Tensor, "batch states c h w"],
    Float[Tensor, "batch window"],
    Float[Tensor, "batch c h w"],
]:
    window = int((schedule.std > 0).sum())
    noise = torch.stack(
        [
            sign * torch.randn((window, *family.latent_shape), generator=generator(*seed))
            for sign, seed in zip(signs, noise_seeds, strict=True)
        ],
        dim=1,
    )
    x = x.to(family.device)
    states, log_probs = [x], []
    # Neighbours of one start are one and the same until the first noise: their prediction is needed once.
    _, start, counts = torch.unique_consecutive(starts, return_inverse=True, return_counts=True)
    first, every = counts.cumsum(0) - counts, torch.arange(len(x))
    steps = schedule.to(family.device)
    for i, std in enumerate(schedule.std.tolist()):
        rows, of = (first, start) if i == 0 else (every, every)
        told = [prompts[row] for row in rows.tolist()]
        output = family.predict(x[rows], steps.timesteps[i].expand(len(rows)), told, guidance=guidance)[of]
        mean = step_mean(x, output, steps.x_coefficient[i].expand(len(x)), steps.output_coefficient[i].expand(len(x)))
        if std > SMALLEST_SIGMA:
            # Latents stay float32, so what is stored is what the log-probability was computed from.
            x = mean + std * noise[i].to(family.device)
            log_probs.append(gaussian_log_prob(x, mean, steps.std[i].expand(len(x))))
            states.append(x)
        else:
            x = mean
    found = torch.stack(log_probs, dim=1) if log_probs else x.new_zeros((len(x), 0))
    return family.decode(x), torch.stack(states, dim=1), found, x
