"""Learning straight from comparisons of images, without a reward: what diffusion_dpo and d3po share."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from hitl.core.errors import ConfigError, TrainingError
from rl.algorithms.contract import Preference
from rl.config import TrainConfig
from rl.families.family import Family
from rl.gaussian import Schedule, gaussian_log_prob, step_mean
from rl.randomness import generator
from rl.rollout import trace
from rl.state import TrainingState

UPDATES_FROM_DENOISING = 4
"""Of an epoch, where `train.updates_per_epoch` leaves it open. Comparisons do not grow stale as the policy learns."""

_ROUNDING = 2
"""Grey levels by which a picture that is drawn again may differ: on a GPU another batch rounds in other places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """What raters said, and the images that they saw."""

    images: UInt8[Tensor, "images 3 height width"]
    prompts: list[str]
    """One for each image."""
    first: Int[Tensor, "comparisons"]
    """Index of one image of each comparison."""
    second: Int[Tensor, "comparisons"]
    """Index of the other; both are of one prompt."""
    outcome: Int[Tensor, "comparisons"]
    """1: the first is better, -1: the second is, 0: a tie."""

    def __len__(self) -> int:
        return len(self.outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """How the images of comparisons were drawn: the states of the steps with noise, which d3po learns from."""

    states: Float[Tensor, "images window_plus_1 c h w"]
    schedule: Schedule
    guidance: float


def retrace(
    family: Family,
    compared: Comparisons,
    schedule: Schedule,
    *,
    guidance: float,
    seeds: Sequence[tuple[object, ...]],
    batch_size: int,
) -> Traces:
    """Draw the compared images again, by the policy that drew them (the family's present one), to learn their steps.

    Raises:
        TrainingError: other images come out.
    """
    again = trace(family, compared.prompts, schedule, guidance=guidance, seeds=seeds, batch_size=batch_size)
    differ = (again.images.int() - compared.images.int()).abs().flatten(1).amax(dim=1) > _ROUNDING
    if differ.any():
        raise TrainingError(
            f"{int(differ.sum())} of {len(differ)} rated images come out otherwise when they are drawn again, so that "
            "the steps that led to them are not known.",
            hint="Draw and train with the same model, versions and settings, or use diffusion_dpo: it needs no steps.",
        )
    return Traces(states=again.states, schedule=again.schedule, guidance=guidance)


def update(
    run: TrainingState,
    algorithm: Preference,
    compared: Comparisons,
    traces: Traces | None,
    config: TrainConfig,
    place: tuple[object, ...],
) -> dict[str, float]:
    """Learn from as many comparisons as an epoch of other algorithms has pairs of images. Returns metrics.

    Each comparison is looked at `config.noises_per_image` times: from noises and levels that both its images share, or,
    with `traces`, at steps of their drawing, the same of both.
    """
    family = run.family
    chosen = _choose(len(compared), max(1, config.prompts_per_epoch * config.images_per_prompt // 2), place, run.epoch)
    rows = chosen.repeat_interleave(config.noises_per_image)
    rows = rows[torch.randperm(len(rows), generator=generator(*place, "order"))]
    updates = config.updates(min(UPDATES_FROM_DENOISING, len(rows)) if traces is None else 1)
    if updates > len(rows):
        raise ConfigError(
            f"train.updates_per_epoch is {updates}, but an epoch has {len(rows)} looks at a pair.",
            hint="Use 1, or learn from more images in an epoch.",
        )
    if traces is None:
        gains = _Denoising(family, compared, rows, place)
    else:
        gains = _Steps(family, compared, traces, rows, place)
    looks = loss_sum = right = decided = drift = grad_norm = 0.0
    for whole in torch.arange(len(rows)).tensor_split(updates):
        run.optimizer.zero_grad()
        own = run.ranks.own(len(whole))
        for part in whole[own.start : own.stop].split(max(1, config.batch_size // 2)):
            if not len(part):  # in a small update all may be other processes'
                continue
            first, second = gains.of(part)
            outcome = compared.outcome[rows[part]].to(family.device)
            loss = algorithm.loss(first, second, outcome)
            (loss * (len(part) / len(whole))).backward()
            margin = ((first - second) * outcome).detach()
            looks += len(part)
            loss_sum += loss.item() * len(part)
            right += float((margin > 0).sum())
            decided += float((outcome != 0).sum())
            drift += float(torch.cat([first, second]).detach().abs().sum()) / 2
        grad_norm = run.step(config.max_grad_norm)
    return {
        "loss": loss_sum / max(looks, 1),
        "preferred_share": right / max(decided, 1),
        "gain_size": drift / max(looks, 1),
        "grad_norm": grad_norm,
    }


class _Denoising:
    """By how much less an image is off when the policy denoises it than when the reference does: squared, and summed
    over the latent."""

    def __init__(self, family: Family, compared: Comparisons, rows: Tensor, place: tuple[object, ...]) -> None:
        self._family, self._compared, self._rows = family, compared, rows
        self._levels = torch.randint(family.process.levels, (len(rows),), generator=generator(*place, "timesteps"))
        self._noise = torch.randn((len(rows), *family.latent_shape), generator=generator(*place, "noise"))
        seen = torch.cat([compared.first[rows], compared.second[rows]]).unique()
        self._latents = dict(zip(seen.tolist(), family.encode(compared.images[seen]), strict=True))

    def of(self, part: Tensor) -> tuple[Tensor, Tensor]:
        compared, rows, family = self._compared, self._rows[part], self._family
        images = [*compared.first[rows].tolist(), *compared.second[rows].tolist()]
        prompts = [compared.prompts[image] for image in images]
        x_0 = torch.stack([self._latents[image] for image in images])
        eps, levels = (torch.cat([both[part]] * 2).to(family.device) for both in (self._noise, self._levels))
        x_t, timesteps, target = family.process.noised(x_0, eps, levels)

        def error() -> Tensor:
            output = family.predict(x_t, timesteps, prompts, guidance=1.0)
            return (output - target).square().flatten(1).sum(dim=1)

        with family.reference():  # not under no_grad, where attention may round otherwise than the policy's
            reference = error().detach()
        first, second = (reference - error()).chunk(2)
        return first, second


class _Steps:
    """By how much likelier a step of an image's drawing is under the policy than under the reference, in nats."""

    def __init__(
        self, family: Family, compared: Comparisons, traces: Traces, rows: Tensor, place: tuple[object, ...]
    ) -> None:
        self._family, self._compared, self._traces, self._rows = family, compared, traces, rows
        self._step = torch.randint(len(traces.schedule), (len(rows),), generator=generator(*place, "steps"))

    def of(self, part: Tensor) -> tuple[Tensor, Tensor]:
        compared, rows, family, traces = self._compared, self._rows[part], self._family, self._traces
        image = torch.cat([compared.first[rows], compared.second[rows]])
        prompts = [compared.prompts[each] for each in image.tolist()]
        step = torch.cat([self._step[part]] * 2)
        x_t, x_prev = traces.states[image, step], traces.states[image, step + 1]
        schedule = traces.schedule.to(family.device)
        step = step.to(family.device)

        def log_prob() -> Tensor:
            output = family.predict(x_t, schedule.timesteps[step], prompts, guidance=traces.guidance)
            mean = step_mean(x_t, output, schedule.x_coefficient[step], schedule.output_coefficient[step])
            return gaussian_log_prob(x_prev, mean, schedule.std[step])

        with family.reference():
            reference = log_prob().detach()
        first, second = (log_prob() - reference).chunk(2)
        return first, second


def _choose(comparisons: int, count: int, place: tuple[object, ...], epoch: int) -> Int[Tensor, "count"]:
    """The epoch's comparisons: passes through shuffles of all of them."""
    chosen = []
    for i in range(epoch * count, (epoch + 1) * count):
        lap, index = divmod(i, comparisons)
        order = torch.randperm(comparisons, generator=generator(*place[:-1], "comparisons", lap))
        chosen.append(int(order[index]))
    return torch.tensor(chosen)
