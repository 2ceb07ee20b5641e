"""How far a policy has gone from its reference: the KL of the paths that they draw, in nats."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rl.config import SampleConfig
from rl.families.family import Family
from rl.gaussian import gaussian_kl, step_mean
from rl.randomness import generator
from rl.rollout import SMALLEST_SIGMA


@torch.no_grad()
def path_kl(
    family: Family,
    prompts: Sequence[str],
    sample: SampleConfig,
    *,
    seeds: Sequence[tuple[object, ...]],
    batch_size: int,
) -> Float[Tensor, "batch"]:
    """For each prompt one path of the policy, and along it the KL of its stochastic steps to the reference's: their sum
    in nats, whose mean over paths is the KL of the two distributions of paths (the chain rule; Lemma 4.2 of DPOK,
    arXiv:2305.16381). The deterministic steps that follow have none. A path's seed names its start and noise.
    """
    schedule = family.process.schedule(sample.steps, eta=sample.eta, window=sample.window).first(sample.window)
    found = []
    for first in range(0, len(prompts), batch_size):
        told, named = list(prompts[first : first + batch_size]), seeds[first : first + batch_size]
        x = torch.stack([torch.randn(family.latent_shape, generator=generator(*seed)) for seed in named])
        noise = torch.stack(
            [torch.randn((len(schedule), *family.latent_shape), generator=generator(*seed, "steps")) for seed in named],
            dim=1,
        ).to(family.device)
        x, total, steps = x.to(family.device), torch.zeros(len(told)), schedule.to(family.device)
        for i, std in enumerate(schedule.std.tolist()):
            times, coefficients = (
                steps.timesteps[i].expand(len(x)),
                (steps.x_coefficient[i].expand(len(x)), steps.output_coefficient[i].expand(len(x))),
            )
            mean = step_mean(x, family.predict(x, times, told, guidance=sample.guidance), *coefficients)
            if std > SMALLEST_SIGMA:
                with family.reference():
                    other = step_mean(x, family.predict(x, times, told, guidance=sample.guidance), *coefficients)
                total += gaussian_kl(mean, other, steps.std[i].expand(len(x))).cpu()
            x = mean + std * noise[i]
        found.append(total)
    return torch.cat(found)
