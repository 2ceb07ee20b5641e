"""Regression on one epoch's images by their scores: what rwr, sft and nft share. No step has a probability."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from hitl.core.errors import ConfigError
from rl.algorithms.contract import Denoised, Regression
from rl.config import TrainConfig
from rl.randomness import generator
from rl.rollout import Trajectory
from rl.state import TrainingState


def update(
    run: TrainingState,
    algorithm: Regression,
    trajectory: Trajectory,
    scores: Float[Tensor, "groups members"],
    config: TrainConfig,
    place: tuple[object, ...],
) -> dict[str, float]:
    """Add noise to each image `config.noises_per_image` times, and learn to predict it. Returns metrics.

    The timestep is any of the schedule's, and there is no guidance: what is learned is the prediction with a prompt,
    from which guidance then goes further away from the one without. Pretraining shows empty prompts too; here none is.
    """
    family, images = run.family, len(trajectory.prompts)
    weights = algorithm.image_weights(scores).flatten().to(family.device)
    image = torch.arange(images).repeat_interleave(config.noises_per_image)
    order = image[torch.randperm(len(image), generator=generator(*place, "order"))]
    if config.updates_per_epoch > len(order):
        raise ConfigError(
            f"train.updates_per_epoch is {config.updates_per_epoch}, but an epoch has {len(order)} noised images.",
            hint="Use 1, or collect more images in an epoch.",
        )
    levels = torch.randint(family.process.levels, (len(order),), generator=generator(*place, "timesteps"))
    noise = torch.randn((len(order), *family.latent_shape), generator=generator(*place, "noise"))
    x_0 = trajectory.latents[order]
    x_t, timesteps, target = family.process.noised(x_0, noise.to(family.device), levels.to(family.device))
    prompts = [trajectory.prompts[row] for row in order.tolist()]

    def predict(part: Tensor) -> Tensor:
        told = [prompts[row] for row in part.tolist()]
        return family.predict(x_t[part], timesteps[part], told, guidance=1.0)

    updates = [
        rows.split(config.batch_size) for rows in torch.arange(len(order)).tensor_split(config.updates_per_epoch)
    ]
    with torch.no_grad():
        with family.reference():
            reference = torch.cat([predict(part) for parts in updates for part in parts])
        if algorithm.learns_from_reference:
            drawn = reference
        elif config.updates_per_epoch > 1:  # with one update, the policy that learns is still the one that drew
            drawn = torch.cat([predict(part) for parts in updates for part in parts])
        else:
            drawn = None
        clean_per_output = family.process.clean(torch.zeros_like(x_t), torch.ones_like(x_t), timesteps)[:, 0, 0, 0]
    loss_sum = error_sum = distance_sum = grad_norm = 0.0
    for parts in updates:
        run.optimizer.zero_grad()
        count = sum(map(len, parts))
        for part in parts:
            output = predict(part)
            denoised = Denoised(
                output=output,
                target=target[part],
                drawn=output.detach() if drawn is None else drawn[part],
                reference=reference[part],
                clean_per_output=clean_per_output[part].abs(),
                weights=weights[order[part]],
            )
            loss = algorithm.loss(denoised)
            (loss * (len(part) / count)).backward()
            loss_sum += loss.item() * len(part)
            error_sum += float(denoised.error.detach().sum())
            distance_sum += float(denoised.reference_distance.detach().sum())
        grad_norm = float(torch.nn.utils.clip_grad_norm_(run.parameters, config.max_grad_norm))
        if not math.isfinite(grad_norm):
            raise run.diverged("The gradient is not finite.")
        run.optimizer.step()
    return {
        "loss": loss_sum / len(order),
        "denoising_error": error_sum / len(order),
        "reference_distance": distance_sum / len(order),
        "effective_images": float(weights.sum() ** 2 / weights.square().sum().clamp(min=1e-12)),
        "grad_norm": grad_norm,
    }
