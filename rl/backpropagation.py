"""The gradient of a differentiable reward through the last steps of drawing: what draft and refl share."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hitl.core.errors import ConfigError
from rl.algorithms.contract import Backpropagation
from rl.config import SampleConfig, TrainConfig
from rl.gaussian import Schedule, step_mean
from rl.randomness import generator
from rl.rollout import trace
from rl.scores import checked_scores
from rl.state import TrainingState


@runtime_checkable
class DifferentiableReward(Protocol):
    """A reward that also scores images of floats from 0 to 1, with a gradient to every pixel."""

    def differentiable(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Float[Tensor, "batch"]: ...


def require_differentiable(reward: object, algorithm: Backpropagation) -> DifferentiableReward:
    """Raise a ConfigError for a reward without a gradient."""
    if not isinstance(reward, DifferentiableReward):
        raise ConfigError(
            f"The reward {type(reward).__name__} has no gradient, and {type(algorithm).__name__.lower()} learns by "
            "nothing else: it needs a reward with a method `differentiable(images, prompts)`.",
            hint="Use dpok, which asks a reward for its scores alone.",
        )
    return reward


def update(
    run: TrainingState,
    algorithm: Backpropagation,
    reward: DifferentiableReward,
    prompts: list[str],
    config: TrainConfig,
    sample: SampleConfig,
    place: tuple[object, ...],
) -> tuple[Float[Tensor, "groups members"], dict[str, float]]:
    """Draw images without noise in the steps, and let their scores pull at the policy. Returns scores and metrics."""
    family, members = run.family, config.images_per_prompt
    schedule = family.process.schedule(sample.steps, eta=0.0, window=0)
    names = [prompt for prompt in prompts for _ in range(members)]
    order = torch.randperm(len(names), generator=generator(*place, "order"))
    if config.updates_per_epoch > len(names):
        raise ConfigError(
            f"train.updates_per_epoch is {config.updates_per_epoch}, but an epoch has {len(names)} images.",
            hint="Use 1, or draw more images in an epoch.",
        )
    ranks = run.ranks
    scores = torch.zeros(len(names))
    loss_sum = error_sum = cut = steepest = grad_norm = 0.0
    for rows in order.tensor_split(config.updates_per_epoch):
        run.optimizer.zero_grad()
        for part in rows[ranks.is_own(rows, len(names))].split(config.batch_size):
            if not len(part):  # in a small update all may be other processes'
                continue
            told = [names[row] for row in part.tolist()]
            latents = _last_latents(run, algorithm, told, part.tolist(), schedule, sample.guidance, place)
            leaf = latents.detach().requires_grad_()
            found = reward.differentiable(family.decode_differentiably(leaf).clamp(0, 1), told)
            if not found.requires_grad:
                raise ConfigError(
                    f"The scores of {type(reward).__name__}.differentiable have no gradient.",
                    hint="Compute them from the images by differentiable operations, without torch.no_grad.",
                )
            checked_scores(found.detach(), told)
            losses = algorithm.loss(found)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
            norms = gradient.flatten(1).norm(dim=1)
            kept = (algorithm.gradient_cap / norms).clamp(max=1)
            latents.backward(gradient * kept.reshape(-1, 1, 1, 1) / len(rows))
            scores[part] = found.detach().float().cpu()
            loss_sum += float(losses.detach().sum())
            cut += float((norms > algorithm.gradient_cap).sum())
            steepest = max(steepest, float(norms.max()))
        if algorithm.denoising_weight > 0:
            error_sum += _denoise_references(run, algorithm, prompts, config, sample, (*place, "update", int(rows[0])))
        grad_norm = run.step(config.max_grad_norm)
    metrics = {
        "loss": loss_sum / len(ranks.own(len(names))),
        "cut_share": cut / len(ranks.own(len(names))),
        "steepest_score": steepest,
        "grad_norm": grad_norm,
    }
    if algorithm.denoising_weight > 0:
        metrics["denoising_error"] = error_sum / config.updates_per_epoch
    own = ranks.own(len(names))
    scores = ranks.gather(scores[own.start : own.stop].to(family.device)).cpu()
    return scores.reshape(len(prompts), members), metrics


def _last_latents(
    run: TrainingState,
    algorithm: Backpropagation,
    prompts: list[str],
    rows: list[int],
    schedule: Schedule,
    guidance: float,
    place: tuple[object, ...],
) -> Float[Tensor, "batch c h w"]:
    """Of finished images, with the gradient of the last steps; or of what one of those steps means as an image."""
    family, steps = run.family, schedule.to(run.family.device)
    x = torch.stack([torch.randn(family.latent_shape, generator=generator(*place, "start", row)) for row in rows])
    x = x.to(family.device)
    first = len(schedule) - algorithm.last_steps
    if algorithm.jumps:  # one step for the whole epoch, as theirs for a batch
        first += int(torch.randint(algorithm.last_steps, (), generator=generator(*place, "jump")))
    for i in range(len(schedule)):
        timesteps = steps.timesteps[i].expand(len(x))
        with torch.set_grad_enabled(i >= first):
            output = family.predict(x, timesteps, prompts, guidance=guidance)
            if algorithm.jumps and i == first:
                return family.process.clean(x, output, timesteps)
            coefficients = (steps.x_coefficient[i].expand(len(x)), steps.output_coefficient[i].expand(len(x)))
            x = step_mean(x, output, *coefficients)
    return x


def _denoise_references(
    run: TrainingState,
    algorithm: Backpropagation,
    prompts: list[str],
    config: TrainConfig,
    sample: SampleConfig,
    place: tuple[object, ...],
) -> float:
    """Add the gradient of the denoising loss on one image of the reference for each prompt; returns the mean error."""
    family = run.family
    schedule = family.process.schedule(sample.steps, eta=0.0, window=0)
    seeds = [(*place, "reference", index) for index in range(len(prompts))]
    with family.reference():
        drawn = trace(
            family, prompts, schedule, guidance=sample.guidance, seeds=seeds, batch_size=sample.batch_size
        ).latents
    rows = torch.arange(len(prompts)).repeat(config.noises_per_image)
    own = run.ranks.own(len(rows))
    levels = torch.randint(family.process.levels, (len(rows),), generator=generator(*place, "timesteps"))
    eps = torch.randn((len(rows), *family.latent_shape), generator=generator(*place, "noise"))
    error = 0.0
    for part in torch.arange(own.start, own.stop).split(config.batch_size):
        x_t, timesteps, target = family.process.noised(
            drawn[rows[part]], eps[part].to(family.device), levels[part].to(family.device)
        )
        told = [prompts[row] for row in rows[part].tolist()]
        output = family.predict(x_t, timesteps, told, guidance=1.0)
        loss = (output - target).square().mean() * (len(part) / len(rows))
        (algorithm.denoising_weight * loss).backward()
        error += loss.item() * run.ranks.count
    return error
