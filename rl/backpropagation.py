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

IMAGES_PER_UPDATE = 8
"""Where `train.updates_per_epoch` leaves it open. An update draws its images afresh, so small ones cost nothing."""


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
    updates = config.updates(max(1, len(names) // IMAGES_PER_UPDATE))
    if updates > len(names):
        raise ConfigError(
            f"train.updates_per_epoch is {updates}, but an epoch has {len(names)} images.",
            hint="Use 1, or draw more images in an epoch.",
        )
    ranks = run.ranks
    scores = torch.zeros(len(names))
    loss_sum = error_sum = cut = steepest = grad_norm = 0.0
    references = _References(run, prompts, config, sample, place) if algorithm.denoising_weight > 0 else None
    for turn, rows in enumerate(order.tensor_split(updates)):
        run.optimizer.zero_grad()
        for part in rows[ranks.is_own(rows, len(names))].split(config.batch_size):
            if not len(part):  # in a small update all may be other processes'
                continue
            told = [names[row] for row in part.tolist()]
            latents = _last_latents(run, algorithm, told, part.tolist(), schedule, sample.guidance, place, turn)
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
        if references:
            error_sum += references.denoise(turn, updates, algorithm.denoising_weight)
        grad_norm = run.step(config.max_grad_norm)
    metrics = {
        "loss": loss_sum / len(ranks.own(len(names))),
        "cut_share": cut / len(ranks.own(len(names))),
        "steepest_score": steepest,
        "grad_norm": grad_norm,
    }
    if references:
        metrics["denoising_error"] = error_sum
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
    turn: int = 0,
) -> Float[Tensor, "batch c h w"]:
    """Of finished images, with the gradient of the last steps; or of what one of those steps means as an image."""
    family, steps = run.family, schedule.to(run.family.device)
    x = torch.stack([torch.randn(family.latent_shape, generator=generator(*place, "start", row)) for row in rows])
    x = x.to(family.device)
    first = len(schedule) - (algorithm.last_steps or len(schedule))
    if algorithm.jumps:  # one step for the whole update, as theirs for a batch
        first += int(torch.randint(len(schedule) - first, (), generator=generator(*place, "jump", turn)))
    for i in range(len(schedule)):
        timesteps = steps.timesteps[i].expand(len(x))
        with torch.set_grad_enabled(i >= first):
            output = family.predict(x, timesteps, prompts, guidance=guidance)
            if algorithm.jumps and i == first:
                return family.process.clean(x, output, timesteps)
            coefficients = (steps.x_coefficient[i].expand(len(x)), steps.output_coefficient[i].expand(len(x)))
            x = step_mean(x, output, *coefficients)
    return x


class _References:
    """Images of the reference, one for each of an epoch's prompts, with noise added `config.noises_per_image` times.
    The updates of the epoch share them."""

    def __init__(
        self,
        run: TrainingState,
        prompts: list[str],
        config: TrainConfig,
        sample: SampleConfig,
        place: tuple[object, ...],
    ) -> None:
        self._run, self._batch_size = run, config.batch_size
        family = run.family
        schedule = family.process.schedule(sample.steps, eta=0.0, window=0)
        seeds = [(*place, "reference", index) for index in range(len(prompts))]
        with family.reference():
            self._drawn = trace(
                family, prompts, schedule, guidance=sample.guidance, seeds=seeds, batch_size=sample.batch_size
            ).latents
        self._prompts = prompts
        self._rows = torch.arange(len(prompts)).repeat(config.noises_per_image)
        self._levels = torch.randint(
            family.process.levels, (len(self._rows),), generator=generator(*place, "timesteps")
        )
        self._eps = torch.randn((len(self._rows), *family.latent_shape), generator=generator(*place, "noise"))

    def denoise(self, turn: int, updates: int, weight: float) -> float:
        """Add the gradient of the mean error on the update's share; returns its part of the epoch's mean error."""
        family, ranks = self._run.family, self._run.ranks
        whole = torch.arange(len(self._rows)).tensor_split(updates)[turn]
        own = ranks.own(len(whole))
        error = 0.0
        for part in whole[own.start : own.stop].split(self._batch_size):
            if not len(part):
                continue
            rows = self._rows[part]
            x_t, timesteps, target = family.process.noised(
                self._drawn[rows], self._eps[part].to(family.device), self._levels[part].to(family.device)
            )
            output = family.predict(x_t, timesteps, [self._prompts[row] for row in rows.tolist()], guidance=1.0)
            loss = (output - target).square().mean() * len(part)
            (weight * loss / len(whole)).backward()
            error += loss.item() / len(self._rows) * ranks.count
        return error
