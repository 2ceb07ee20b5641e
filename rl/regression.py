"""Regression on one epoch's images by their scores: what rwr, sft and nft share. No step has a probability."""

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
    family, images = run.family, scores.numel()
    weights = algorithm.image_weights(scores).flatten().to(family.device)
    image = torch.arange(images).repeat_interleave(config.noises_per_image)
    order = image[torch.randperm(len(image), generator=generator(*place, "order"))]
    if config.updates(1) > len(order):
        raise ConfigError(
            f"train.updates_per_epoch is {config.updates_per_epoch}, but an epoch has {len(order)} noised images.",
            hint="Use 1, or collect more images in an epoch.",
        )
    # Noises of all processes' images are drawn, so that none depends on how many processes there are.
    levels = torch.randint(family.process.levels, (len(order),), generator=generator(*place, "timesteps"))
    noise = torch.randn((len(order), *family.latent_shape), generator=generator(*place, "noise"))
    is_own = run.ranks.is_own(order, images)
    index = is_own.cumsum(0) - 1  # of a row among this process's
    shares = torch.arange(len(order)).tensor_split(config.updates(1))
    updates = [index[rows[is_own[rows]]].split(config.batch_size) for rows in shares]
    order, levels, noise = order[is_own], levels[is_own], noise[is_own]
    own = order - run.ranks.own(images).start
    x_t, timesteps, target = family.process.noised(
        trajectory.latents[own], noise.to(family.device), levels.to(family.device)
    )
    prompts = [trajectory.prompts[row] for row in own.tolist()]

    def predict(part: Tensor) -> Tensor:
        told = [prompts[row] for row in part.tolist()]
        return family.predict(x_t[part], timesteps[part], told, guidance=1.0)

    def predict_all() -> Tensor:
        # Not under no_grad, where attention may round otherwise than in the passes that learn.
        return torch.cat([predict(part).detach() for parts in updates for part in parts if len(part)])

    with family.reference():
        reference = predict_all()
    drawn = reference if algorithm.learns_from_reference else None
    if drawn is None and config.updates(1) > 1:  # with one, the policy that learns is still the one that drew
        drawn = predict_all()
    clean_per_output = family.process.clean(torch.zeros_like(x_t), torch.ones_like(x_t), timesteps)[:, 0, 0, 0]
    loss_sum = error_sum = distance_sum = grad_norm = 0.0
    for rows, parts in zip(shares, updates, strict=True):
        run.optimizer.zero_grad()
        for part in parts:
            if not len(part):  # in a small update all may be other processes'
                continue
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
            (loss * (len(part) / len(rows))).backward()
            loss_sum += loss.item() * len(part)
            error_sum += float(denoised.error.detach().sum())
            distance_sum += float(denoised.reference_distance.detach().sum())
        grad_norm = run.step(config.max_grad_norm)
    return {
        "loss": loss_sum / len(order),
        "denoising_error": error_sum / len(order),
        "reference_distance": distance_sum / len(order),
        "effective_images": float(weights.sum() ** 2 / weights.square().sum().clamp(min=1e-12)),
        "grad_norm": grad_norm,
    }
