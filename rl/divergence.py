"""How far a policy has gone from its reference: the KL of their trajectories, in nats."""

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
def kl_to_reference(
    family: Family,
    prompts: Sequence[str],
    config: SampleConfig,
    *,
    seeds: Sequence[tuple[object, ...]],
) -> Float[Tensor, "batch"]:
    """Of one trajectory of each prompt, drawn by the policy as training draws: the sum of its steps' exact KL, in nats.

    By the chain rule its mean is KL(policy || reference) of whole trajectories, and that of the finished images is no
    larger (Lemma 4.2 of DPOK, arXiv:2305.16381). Steps without noise have no part in it.
    """
    schedule = family.process.schedule(config.steps, eta=config.eta, window=config.window)
    window = int((schedule.std > 0).sum())
    steps, found = schedule.to(family.device), []
    for start in range(0, len(prompts), config.batch_size):
        told, names = prompts[start : start + config.batch_size], seeds[start : start + config.batch_size]
        x = torch.stack([torch.randn(family.latent_shape, generator=generator(*seed)) for seed in names])
        noise = torch.stack(
            [torch.randn((window, *family.latent_shape), generator=generator(*seed, "steps")) for seed in names], dim=1
        )
        x, kl = x.to(family.device), torch.zeros(len(told), device=family.device)
        for i, std in enumerate(schedule.std[:window].tolist()):
            coefficients = steps.x_coefficient[i].expand(len(x)), steps.output_coefficient[i].expand(len(x))
            at = steps.timesteps[i].expand(len(x))
            mean = step_mean(x, family.predict(x, at, told, guidance=config.guidance), *coefficients)
            if std > SMALLEST_SIGMA:
                with family.reference():
                    reference = step_mean(x, family.predict(x, at, told, guidance=config.guidance), *coefficients)
                kl += gaussian_kl(mean, reference, steps.std[i].expand(len(x)))
                x = mean + std * noise[i].to(family.device)
            else:
                x = mean
        found.append(kl.cpu())
    return torch.cat(found)
