"""Regression on one epoch's images, weighted by their scores: what rwr and sft share. No step has a probability."""

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
    timesteps = torch.randint(family.train_timesteps, (len(order),), generator=generator(*place, "timesteps"))
    noise = torch.randn((len(order), *family.latent_shape), generator=generator(*place, "noise"))
    loss_sum = error_sum = distance_sum = grad_norm = 0.0
    for rows in torch.arange(len(order)).tensor_split(config.updates_per_epoch):
        run.optimizer.zero_grad()
        for part in rows.split(config.batch_size):
            eps, t = noise[part].to(family.device), timesteps[part].to(family.device)
            x_t = family.add_noise(trajectory.latents[order[part]], eps, t)
            text = family.encode([trajectory.prompts[row] for row in order[part].tolist()])
            with torch.no_grad(), family.reference():
                reference = family.predict_noise(x_t, t, text, guidance=1.0)
            predicted = family.predict_noise(x_t, t, text, guidance=1.0)
            denoised = Denoised(
                error=(predicted - eps).square().flatten(1).mean(dim=1),
                reference_distance=(predicted - reference).square().flatten(1).mean(dim=1),
                weights=weights[order[part]],
            )
            loss = algorithm.loss(denoised)
            (loss * (len(part) / len(rows))).backward()
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
