"""Policy gradient on one epoch's transitions: what dpok, ddpo_is and ddpo_sf share."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hitl.core.errors import ConfigError, TrainingError
from rl.algorithms.contract import PolicyGradient, Steps
from rl.config import SampleConfig, TrainConfig
from rl.families.family import Family
from rl.gaussian import gaussian_kl, gaussian_log_prob, step_mean
from rl.randomness import generator
from rl.rollout import Trajectory
from rl.state import TrainingState

RATIO_TOLERANCE = 1e-2
"""Largest |log ratio| allowed on the first pass over fresh samples, in nats of the summed log-probability, where there
is no clip; else a tenth of its range."""


def update(
    run: TrainingState,
    algorithm: PolicyGradient,
    trajectory: Trajectory,
    scores: Float[Tensor, "groups members"],
    chosen: Sequence[str],
    config: TrainConfig,
    sample: SampleConfig,
    place: tuple[object, ...],
) -> dict[str, float]:
    """Learn from one epoch's images: every (image, step) is one transition, all weighted alike. Returns metrics.

    The trajectory is this process's part of the epoch; scores and the groups' prompts, `chosen`, are of all of it.
    """
    transitions = Transitions.of(run, algorithm, trajectory, scores, chosen, config, sample).with_older(run.replay)
    every = len(transitions.advantages) * run.ranks.count
    order = torch.randperm(every, generator=generator(*place, "order")).to(run.family.device)
    if config.updates(1) > len(order):
        raise ConfigError(
            f"train.updates_per_epoch is {config.updates_per_epoch}, but an epoch has {len(order)} transitions.",
            hint="Use 1, or collect more images in an epoch.",
        )
    shares = order.tensor_split(config.updates(1))
    own = [rows[run.ranks.is_own(rows, every)] - run.ranks.own(every).start for rows in shares]
    # Within an update the order is free: transitions that share a state stand together, and need it once.
    updates = [rows[transitions.state[rows].argsort(stable=True)].split(config.batch_size) for rows in own]
    totals = _Totals()
    clip = algorithm.log_ratio_range(math.prod(run.family.latent_shape))
    allowed = clip / 10 if math.isfinite(clip) else RATIO_TOLERANCE
    rounding: dict[str, float] = {}
    is_half, drawn = run.family.dtype != torch.float32, transitions.log_probs
    # In a small update all may be other processes'.
    updates = [[part for part in parts if len(part)] for parts in updates]
    if is_half:
        transitions.log_probs = drawn.clone()
        for part in itertools.chain(*updates[1:]):
            transitions.settle(part, transitions.evaluate(run.family, part, sample))
    for rows, parts in zip(shares, updates, strict=True):
        run.optimizer.zero_grad()
        for part in parts:
            share = len(part) / len(rows)
            steps = transitions.evaluate(run.family, part, sample)
            steps = transitions.settle(part, steps) if is_half and totals.updates == 0 else steps
            loss = algorithm.loss(steps)
            (loss * share).backward()
            log_ratio = steps.log_prob.detach() - steps.old_log_prob
            totals.add(log_ratio, steps.kl.detach(), loss.item())
            if totals.updates == 0:
                is_fresh = part < transitions.fresh
                totals.add_first_pass(log_ratio[is_fresh], transitions.step[part][is_fresh])
                _check_ratio(run, totals.first_pass_error, allowed, totals.worst_step)
        if is_half and totals.updates == 0:
            rounding["rollout_log_ratio"] = _check_rounding(run, transitions, drawn, sample)
        totals.grad_norm = run.step(config.max_grad_norm)
        totals.updates += 1
    metrics = totals.means() | rounding | {"kl_scale": run.kl_scale}
    metrics["kl_per_step"] = run.ranks.mean(metrics["kl_per_step"])  # all must price it alike
    run.kl_scale = algorithm.next_kl_scale(run.kl_scale, metrics["kl_per_step"])
    if config.replay:
        metrics["stale_share"] = 1 - transitions.fresh / len(transitions.prompts)
    run.replay = transitions.kept(config.replay, place)
    if run.value is not None:
        metrics["value_loss"] = _fit_value(run, transitions)
    return metrics


_MEASURED = 32
"""Transitions of an epoch whose KL is measured where no loss asks for it."""

_KEPT = (
    *("x_t", "x_prev", "timesteps", "x_coefficient", "output_coefficient", "std", "step"),
    *("log_probs", "relative", "advantages", "weights", "reference_output"),
)
"""Tensors of `Transitions` that replay keeps."""


@dataclass(slots=True)
class Transitions:
    """What an epoch learns from, flattened to (image x step): its own transitions and, with replay, older ones."""

    state: Tensor
    """The first transition that starts from the same latent and prompt: images of a group may share their first."""
    prompts: list[str]
    x_t: Tensor
    x_prev: Tensor
    timesteps: Tensor
    x_coefficient: Tensor
    output_coefficient: Tensor
    std: Tensor
    step: Tensor
    log_probs: Tensor
    relative: Tensor
    """Advantages before a value function is subtracted: what it learns to expect."""
    advantages: Tensor
    weights: Tensor
    reference_output: Tensor
    kl_scale: float
    fresh: int
    """The first so many are of this epoch, the others older."""

    @classmethod
    def of(
        cls,
        run: TrainingState,
        algorithm: PolicyGradient,
        trajectory: Trajectory,
        scores: Float[Tensor, "groups members"],
        chosen: Sequence[str],
        config: TrainConfig,
        sample: SampleConfig,
    ) -> "Transitions":
        device, window = run.family.device, trajectory.log_probs.shape[1]
        images, members = len(trajectory.prompts), scores.shape[1]
        step = torch.arange(window, device=device).repeat(images)
        state = torch.arange(images * window, device=device)
        if sample.shared_noise:
            size = members * window
            state = torch.where(step == 0, state // size * size, state)
        x_t = trajectory.states[:, :-1].flatten(0, 1)
        prompts = [prompt for prompt in trajectory.prompts for _ in range(window)]
        own = run.ranks.own(len(scores))
        found = algorithm.advantages(scores, chosen, run.memory)[own.start : own.stop]
        relative = found.flatten().to(device).repeat_interleave(window)
        advantages = relative
        if run.value is not None and run.epoch_of_value > 0:
            with torch.no_grad():
                expected = run.value(x_t, run.family.text_features(prompts), step).reshape(len(own), members, window)
            if algorithm.has_group_baseline:  # then only what V adds to it counts
                expected = expected - expected.mean(dim=1, keepdim=True)
            advantages = relative - expected.flatten()
        schedule = trajectory.schedule.to(device)
        weights = torch.ones(window, device=device)
        if config.level_steps:
            weights = schedule.std / schedule.output_coefficient.abs()
            weights = weights / weights.mean()
        self = cls(
            state=state,
            prompts=prompts,
            x_t=x_t,
            x_prev=trajectory.states[:, 1:].flatten(0, 1),
            timesteps=schedule.timesteps.repeat(images),
            x_coefficient=schedule.x_coefficient.repeat(images),
            output_coefficient=schedule.output_coefficient.repeat(images),
            std=schedule.std.repeat(images),
            step=step,
            log_probs=trajectory.log_probs.flatten(),
            relative=relative,
            advantages=advantages,
            weights=weights.repeat(images),
            reference_output=torch.empty(0),
            kl_scale=run.kl_scale,
            fresh=len(prompts),
        )
        every = 1 if algorithm.uses_reference else max(1, len(prompts) // _MEASURED)
        self.reference_output = self._predict_reference(run.family, every, config.batch_size, sample)
        return self

    def _predict_reference(self, family: Family, every: int, batch_size: int, sample: SampleConfig) -> Tensor:
        """The reference's output of every so many transitions, once per state: it does not change while the policy
        learns. nan for the others."""
        # Not under no_grad, where attention may choose another kernel than in learning, with other roundings.
        outputs = torch.full_like(self.x_t, torch.nan)
        asked = torch.arange(0, len(outputs), every, device=outputs.device)
        states, of = self.state[asked].unique(return_inverse=True)
        with family.reference():
            found = torch.cat([self._predict(family, rows, sample) for rows in states.split(batch_size)])
        outputs[asked] = found.detach()[of]
        return outputs

    def _predict(self, family: Family, states: Tensor, sample: SampleConfig) -> Tensor:
        prompts = [self.prompts[row] for row in states.tolist()]
        return family.predict(self.x_t[states], self.timesteps[states], prompts, guidance=sample.guidance)

    def with_older(self, older: dict[str, Any] | None) -> "Transitions":
        """These, and behind them what `kept` gave of earlier epochs: advantages and log-probabilities as they were."""
        if older is None:
            return self
        joined = {name: torch.cat([getattr(self, name), tensor]) for name, tensor in older["tensors"].items()}
        alone = torch.arange(len(self.prompts), len(self.prompts) + len(older["prompts"]), device=self.state.device)
        state = torch.cat([self.state, alone])
        return replace(self, prompts=self.prompts + older["prompts"], state=state, **joined)

    def kept(self, count: int, place: tuple[object, ...]) -> dict[str, Any] | None:
        """The newest `count`, for the next epoch and for the state's file; of one epoch any, not the first groups."""
        if not count:
            return None
        fresh = torch.randperm(self.fresh, generator=generator(*place, "replay"))
        rows = torch.cat([fresh, torch.arange(self.fresh, len(self.prompts))])[:count]
        tensors = {name: getattr(self, name)[rows.to(self.state.device)] for name in _KEPT}
        return {"prompts": [self.prompts[row] for row in rows.tolist()], "tensors": tensors}

    def evaluate(self, family: Family, rows: Tensor, sample: SampleConfig) -> Steps:
        """The stored steps under the present policy."""
        states, of = self.state[rows].unique(return_inverse=True)
        # The gradient of index_select, unlike that of output[of], adds up in a fixed order on the CPU.
        output = self._predict(family, states, sample).index_select(0, of)
        reference = self.reference_output[rows]
        x_t, std, coefficients = (
            self.x_t[rows],
            self.std[rows],
            (self.x_coefficient[rows], self.output_coefficient[rows]),
        )
        mean = step_mean(x_t, output, *coefficients)
        return Steps(
            log_prob=gaussian_log_prob(self.x_prev[rows], mean, std),
            old_log_prob=self.log_probs[rows],
            advantages=self.advantages[rows],
            weights=self.weights[rows],
            kl=gaussian_kl(mean, step_mean(x_t, reference, *coefficients), std),
            kl_per_distance=self.output_coefficient[rows] ** 2 / (2 * std**2),
            output_mse=(output - reference).square().flatten(1).mean(dim=1),
            dims=x_t[0].numel(),
            kl_scale=self.kl_scale,
        )

    def settle(self, rows: Tensor, steps: Steps) -> Steps:
        """Put the log-probabilities of the very batch that is learned from in place of the rollout's.

        In half precision a batch of another shape is rounded in other places.
        """
        self.log_probs[rows] = steps.log_prob.detach()
        return replace(steps, old_log_prob=self.log_probs[rows])

    def moved_by_rounding(self, drawn: Tensor, dtype: torch.dtype, guidance: float) -> tuple[float, float, int]:
        """|log ratio| of the rollout's log-probabilities and these, what rounding explains of it, and the step, for the
        transition that is worst beside its own bound.

        The bound: a log-probability moves by z |c| / std per unit of the model's output, c its coefficient. The output
        and z are of size 1, so an error in the last place of each of its D numbers, all pulling the same way, moves it
        by |c| / std x eps x D; guidance w multiplies the errors of its halves by w and w - 1. Errors cancel mostly,
        which leaves room for their sum over the model's layers.
        """
        of_guidance = abs(guidance) + abs(guidance - 1)
        reach = self.output_coefficient.abs() / self.std * of_guidance
        allowed = reach * torch.finfo(dtype).eps * self.x_t[0].numel()
        error = (self.log_probs - drawn).abs()
        worst = int((error / allowed).argmax())  # nan counts as the largest
        return float(error[worst]), float(allowed[worst]), int(self.step[worst])


@dataclass(slots=True)
class _Totals:
    """Running sums over the passes of one epoch."""

    count: int = 0
    updates: int = 0
    loss: float = 0.0
    kl: float = 0.0
    measured: int = 0
    """Transitions whose KL is known."""
    approx_kl: float = 0.0
    grad_norm: float = 0.0
    """Of the last update, before it was cut down."""
    first_pass_error: float = 0.0
    worst_step: int = 0
    """Where the first pass is furthest from a ratio of 1."""
    batches: int = 0

    def add(self, log_ratio: Tensor, kl: Tensor, loss: float) -> None:
        self.count += len(log_ratio)
        self.batches += 1
        self.loss += loss
        known = kl[~kl.isnan()]
        self.measured += len(known)
        self.kl += float(known.sum())
        self.approx_kl += 0.5 * float(log_ratio.square().sum())

    def add_first_pass(self, log_ratio: Tensor, step: Tensor) -> None:
        if not len(log_ratio):
            return
        worst = int(log_ratio.abs().argmax())  # nan counts as the largest
        error = float(log_ratio[worst].abs())
        if not error <= self.first_pass_error:
            self.first_pass_error, self.worst_step = error, int(step[worst])

    def means(self) -> dict[str, float]:
        return {
            "loss": self.loss / self.batches,
            "kl_per_step": self.kl / max(self.measured, 1),
            "approx_kl": self.approx_kl / self.count,
            "grad_norm": self.grad_norm,
            "first_pass_log_ratio": self.first_pass_error,
            "first_pass_worst_step": self.worst_step + 1,
        }


def _check_rounding(run: TrainingState, transitions: Transitions, drawn: Tensor, sample: SampleConfig) -> float:
    """Half precision: the rollout's log-probabilities must be those that are learned from but for rounding."""
    error, explained, step = transitions.moved_by_rounding(drawn, run.family.dtype, sample.guidance)
    _check_ratio(run, error, explained, step)
    return error


def _check_ratio(run: TrainingState, error: float, allowed: float, step: int) -> None:
    """The policy has not moved yet, so every ratio must be 1 (measured before any clamp)."""
    if error <= allowed:
        return
    message = f"The policy ratio is not 1 on fresh samples: |log ratio| reaches {error:.2g} nats at step {step + 1}"
    if not math.isfinite(error):
        raise run.diverged(f"{message}.")
    raise TrainingError(
        f"{message} (allowed: {allowed:.2g}).", hint="Collect and train in the same precision; float32 is exact."
    )


def _fit_value(run: TrainingState, transitions: Transitions) -> float:
    """Five passes of regression on the advantages before any value is subtracted; returns the last loss."""
    assert run.value is not None
    assert run.value_optimizer is not None
    text = run.family.text_features(transitions.prompts)
    loss = torch.zeros(())
    for _ in range(5):
        loss = F.mse_loss(run.value(transitions.x_t, text, transitions.step), transitions.relative)
        run.value_optimizer.zero_grad()
        (loss / run.ranks.count).backward()
        run.ranks.sum_gradients([*run.value.parameters()])
        run.value_optimizer.step()
    run.epoch_of_value += 1
    return loss.item()
