"""THE loop of the algorithm: collect -> score -> advantages -> update. Resumes bit for bit from its last epoch."""

import io
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from data.workspace import write_atomically
from hitl.core.errors import ConfigError, TrainingError
from rl.config import SampleConfig, TrainConfig
from rl.ddim import ddim_mean_std, ddim_sigma, eps_coefficient, gaussian_kl, gaussian_log_prob
from rl.families.sd15 import StableDiffusion15
from rl.randomness import derive_seed, generator
from rl.rollout import Trajectory, collect
from rl.value import ValueNetwork

logger = logging.getLogger(__name__)

RATIO_TOLERANCE = 1e-2
"""Largest |log ratio| allowed on the first pass over fresh samples, in nats of the summed log-probability."""

Reward = Callable[[UInt8[Tensor, "batch 3 height width"], Sequence[str]], Float[Tensor, "batch"]]


@runtime_checkable  # the type checker of the tests asks with isinstance
class Algorithm(Protocol):
    """What an entry of the registry of algorithms offers: pure functions of one frozen configuration."""

    def advantages(self, scores: Float[Tensor, "groups members"]) -> Float[Tensor, "groups members"]: ...

    def loss(
        self,
        log_prob: Float[Tensor, "batch"],
        old_log_prob: Float[Tensor, "batch"],
        advantages: Float[Tensor, "batch"],
        kl: Float[Tensor, "batch"],
        weights: Float[Tensor, "batch"],
    ) -> Float[Tensor, ""]: ...


def train(
    family: StableDiffusion15,
    algorithm: Algorithm,
    reward: Reward,
    prompts: Sequence[str],
    config: TrainConfig,
    sample: SampleConfig,
    *,
    folder: Path,
    place: tuple[object, ...],
    tasks: Sequence[str] | None = None,
    start_from: Path | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, metrics: None,
) -> None:
    """Train the LoRA for `config.epochs` epochs, or go on from `folder/state.pt`; ends with the LoRA in `folder`.

    Args:
        place: names the run's randomness, as (seed, round).
        tasks: the task of each prompt. Each task is then visited equally often, however many prompts it has.
        start_from: folder of the LoRA to go on from (the last round's); None starts at the reference.
        on_epoch: told the number of finished epochs and the last one's metrics.

    Raises:
        TrainingError: the policy ratio is not 1 on the first pass over fresh samples, or a score or the gradient is
            not finite.
        ConfigError: settings that a round cannot change on its way have changed, or ask for what cannot be done.
    """
    run = _Run.start(family, config, sample, folder, place, start_from)
    by_task: dict[str, list[str]] = {}
    for prompt, task in zip(prompts, tasks or [""] * len(prompts), strict=True):
        by_task.setdefault(task, []).append(prompt)
    for epoch in range(run.epoch, config.epochs):
        started = time.monotonic()
        chosen = _choose(by_task, config.prompts_per_epoch, place, epoch)
        trajectory = collect(family, chosen, config.images_per_prompt, sample, (*place, epoch))
        collected = time.monotonic()
        scores = reward(trajectory.images, trajectory.prompts).reshape(len(chosen), config.images_per_prompt)
        if not torch.isfinite(scores).all():
            raise TrainingError("The reward gave a score that is not finite.", hint="Fit the reward model again.")
        scored = time.monotonic()
        metrics = update(run, algorithm, trajectory, scores, config, sample, (*place, epoch))
        metrics |= {
            "reward_mean": float(scores.mean()),
            "reward_std": float(scores.std()),
            "reward_std_within_prompt": float(scores.std(dim=1).mean()),
            "seconds_collect": collected - started,
            "seconds_score": scored - collected,
            "seconds_update": time.monotonic() - scored,
        }
        on_epoch(epoch + 1, metrics)  # before the state: a kill between the two repeats the epoch and tells it again
        run.save(epoch + 1)
    family.save_lora(folder)


def update(
    run: "_Run",
    algorithm: Algorithm,
    trajectory: Trajectory,
    scores: Float[Tensor, "groups members"],
    config: TrainConfig,
    sample: SampleConfig,
    place: tuple[object, ...],
) -> dict[str, float]:
    """Learn from one epoch's images: every (image, step) is one transition, all weighted alike. Returns metrics."""
    transitions = _Transitions.of(run, algorithm, trajectory, scores, config, sample)
    order = torch.randperm(len(transitions.advantages), generator=generator(*place, "order")).to(run.family.device)
    if config.updates_per_epoch > len(order):
        raise ConfigError(
            f"train.updates_per_epoch is {config.updates_per_epoch}, but an epoch has {len(order)} transitions.",
            hint="Use 1, or collect more images in an epoch.",
        )
    # Within an update the order is free: transitions that share a state stand together, and need it once.
    shares = [
        rows[transitions.state[rows].argsort(stable=True)] for rows in order.tensor_split(config.updates_per_epoch)
    ]
    updates = [rows.split(config.batch_size) for rows in shares]
    totals = _Totals()
    rounding: dict[str, float] = {}
    if run.family.dtype != torch.float32:
        error, allowed = transitions.recompute(run.family, [part for parts in updates for part in parts], sample)
        run.check_ratio(error, allowed)
        rounding["rollout_log_ratio"] = error
    for parts in updates:
        run.optimizer.zero_grad()
        for part in parts:
            share = len(part) / sum(map(len, parts))
            log_prob, kl = transitions.evaluate(run.family, part, sample)
            loss = algorithm.loss(
                log_prob, transitions.log_probs[part], transitions.advantages[part], kl, transitions.weights[part]
            )
            (loss * share).backward()
            totals.add(log_prob.detach() - transitions.log_probs[part], kl.detach(), loss.item())
            if totals.updates == 0:
                run.check_ratio(totals.first_pass_error, RATIO_TOLERANCE)
        totals.grad_norm = float(torch.nn.utils.clip_grad_norm_(run.parameters, config.max_grad_norm))
        if not math.isfinite(totals.grad_norm):
            raise run.diverged("The gradient is not finite.")
        run.optimizer.step()
        totals.updates += 1
    metrics = totals.means() | rounding
    if run.value is not None:
        metrics["value_loss"] = _fit_value(run, transitions)
    return metrics


@dataclass(slots=True)
class _Transitions:
    """One epoch's transitions, flattened to (image x step), and what does not change while they are learned from."""

    state: Tensor
    """The first transition that starts from the same latent and prompt: images of a group may share their first."""
    text: Tensor
    x_t: Tensor
    x_prev: Tensor
    timesteps: Tensor
    alpha_bar: Tensor
    alpha_bar_prev: Tensor
    step: Tensor
    log_probs: Tensor
    relative: Tensor
    """Advantages within the group alone: what the value function learns to expect."""
    advantages: Tensor
    weights: Tensor
    reference_eps: Tensor

    @classmethod
    def of(
        cls,
        run: "_Run",
        algorithm: Algorithm,
        trajectory: Trajectory,
        scores: Float[Tensor, "groups members"],
        config: TrainConfig,
        sample: SampleConfig,
    ) -> "_Transitions":
        device, window = run.family.device, trajectory.log_probs.shape[1]
        images = len(trajectory.prompts)
        step = torch.arange(window, device=device).repeat(images)
        state = torch.arange(images * window, device=device)
        if sample.shared_noise:
            size = scores.shape[1] * window
            state = torch.where(step == 0, state // size * size, state)
        x_t = trajectory.states[:, :-1].flatten(0, 1)
        text = run.family.encode(trajectory.prompts).repeat_interleave(window, dim=0)
        relative = algorithm.advantages(scores.float()).flatten().to(device).repeat_interleave(window)
        advantages = relative
        if run.value is not None and run.epoch_of_value > 0:
            with torch.no_grad():
                expected = run.value(x_t, text, step).reshape(*scores.shape, window)
            # The group's mean is subtracted already, so only what V adds to it counts.
            advantages = relative - (expected - expected.mean(dim=1, keepdim=True)).flatten()
        before, after = trajectory.alpha_bar.to(device), trajectory.alpha_bar_prev.to(device)
        weights = torch.ones(window, device=device)
        if config.level_steps:
            sigma = ddim_sigma(before, after, eta=sample.eta)
            weights = sigma / eps_coefficient(before, after, eta=sample.eta).abs()
            weights = weights / weights.mean()
        self = cls(
            state=state,
            text=text,
            x_t=x_t,
            x_prev=trajectory.states[:, 1:].flatten(0, 1),
            timesteps=trajectory.timesteps.to(device).repeat(images),
            alpha_bar=before.repeat(images),
            alpha_bar_prev=after.repeat(images),
            step=step,
            log_probs=trajectory.log_probs.flatten(),
            relative=relative,
            advantages=advantages,
            weights=weights.repeat(images),
            reference_eps=torch.empty(0),
        )
        self.reference_eps = self._reference_noise(run.family, config.batch_size, sample)
        return self

    @torch.no_grad()
    def _reference_noise(self, family: StableDiffusion15, batch_size: int, sample: SampleConfig) -> Tensor:
        """The reference's noise, once per state: it does not change while the policy learns."""
        states, of = self.state.unique(return_inverse=True)
        with family.reference():
            noise = [self._noise(family, rows, sample) for rows in states.split(batch_size)]
        return torch.cat(noise)[of]

    def _noise(self, family: StableDiffusion15, states: Tensor, sample: SampleConfig) -> Tensor:
        return family.predict_noise(
            self.x_t[states], self.timesteps[states], self.text[states], guidance=sample.guidance
        )

    def evaluate(self, family: StableDiffusion15, rows: Tensor, sample: SampleConfig) -> tuple[Tensor, Tensor]:
        """Log-probability of the stored steps under the present policy, and its one-step KL to the reference."""
        states, of = self.state[rows].unique(return_inverse=True)
        # The gradient of index_select, unlike that of eps[of], adds up in a fixed order on the CPU.
        eps = self._noise(family, states, sample).index_select(0, of)
        x_t, before, after = self.x_t[rows], self.alpha_bar[rows], self.alpha_bar_prev[rows]
        mean, std = ddim_mean_std(x_t, eps, before, after, eta=sample.eta)
        reference_mean, _ = ddim_mean_std(x_t, self.reference_eps[rows], before, after, eta=sample.eta)
        return gaussian_log_prob(self.x_prev[rows], mean, std), gaussian_kl(mean, reference_mean, std)

    def recompute(
        self, family: StableDiffusion15, batches: Sequence[Tensor], sample: SampleConfig
    ) -> tuple[float, float]:
        """Put the log-probabilities of the very batches that are learned from in place of the rollout's.

        In half precision a batch of another shape is rounded in other places. Returns |log ratio| of the two and what
        rounding explains of it, for the transition that is worst beside its own bound.

        The bound: a log-probability moves by z |c_eps| / sigma per unit of the predicted noise. The noise and z are of
        size 1, so an error in the last place of each of its D numbers, all pulling the same way, moves it by
        |c_eps| / sigma x eps x D. Errors cancel mostly, which leaves room for guidance to multiply them.
        """
        drawn = self.log_probs
        self.log_probs = torch.empty_like(drawn)
        for rows in batches:
            # Not under no_grad: attention may choose another kernel, with other roundings, where no gradient is wanted.
            self.log_probs[rows] = self.evaluate(family, rows, sample)[0].detach()
        sigma = ddim_sigma(self.alpha_bar, self.alpha_bar_prev, eta=sample.eta)
        reach = eps_coefficient(self.alpha_bar, self.alpha_bar_prev, eta=sample.eta).abs() / sigma
        allowed = reach * torch.finfo(family.dtype).eps * self.x_t[0].numel()
        error = (self.log_probs - drawn).abs()
        worst = int((error / allowed).argmax())  # nan counts as the largest
        return float(error[worst]), float(allowed[worst])


@dataclass(slots=True)
class _Totals:
    """Running sums over the passes of one epoch."""

    count: int = 0
    updates: int = 0
    loss: float = 0.0
    kl: float = 0.0
    approx_kl: float = 0.0
    grad_norm: float = 0.0
    """Of the last update, before it was cut down."""
    first_pass_error: float = 0.0
    batches: int = 0

    def add(self, log_ratio: Tensor, kl: Tensor, loss: float) -> None:
        self.count += len(log_ratio)
        self.batches += 1
        self.loss += loss
        self.kl += float(kl.sum())
        self.approx_kl += 0.5 * float(log_ratio.square().sum())
        if self.updates == 0:
            error = float(log_ratio.abs().max())
            self.first_pass_error = error if math.isnan(error) else max(self.first_pass_error, error)

    def means(self) -> dict[str, float]:
        return {
            "loss": self.loss / self.batches,
            "kl_per_step": self.kl / self.count,
            "approx_kl": self.approx_kl / self.count,
            "grad_norm": self.grad_norm,
            "first_pass_log_ratio": self.first_pass_error,
        }


@dataclass(slots=True)
class _Run:
    """Everything that changes from epoch to epoch; what `state.pt` holds."""

    family: StableDiffusion15
    parameters: list[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    value: ValueNetwork | None
    value_optimizer: torch.optim.Optimizer | None
    path: Path
    settings: dict[str, Any]
    """What the state's tensors are made for: a round that was begun cannot go on with others."""
    epoch: int = 0
    epoch_of_value: int = 0

    @classmethod
    def start(
        cls,
        family: StableDiffusion15,
        config: TrainConfig,
        sample: SampleConfig,
        folder: Path,
        place: tuple[object, ...],
        start_from: Path | None,
    ) -> "_Run":
        family.drop_lora()
        if start_from is not None:
            parameters = family.load_lora(start_from)
            family.require_lora(rank=config.lora_rank, targets=config.lora_targets)
        else:
            seed = derive_seed(*place, "lora") % 2**31
            parameters = family.add_lora(rank=config.lora_rank, targets=config.lora_targets, seed=seed)
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0, betas=(0.9, 0.95))
        value, value_optimizer = None, None
        if config.value_function:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(*place, "value") % 2**31)
                width = family.encode([""]).shape[-1]
                value = ValueNetwork(math.prod(family.latent_shape), width, sample.window).to(family.device)
            value_optimizer = torch.optim.AdamW(value.parameters(), lr=1e-3)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "train.lora_rank": config.lora_rank,
            "train.lora_targets": list(config.lora_targets),
            "train.value_function": config.value_function,
            "sample.window": sample.window,
        }
        run = cls(family, parameters, optimizer, value, value_optimizer, folder / "state.pt", settings)
        if run.path.exists():
            run._restore()
        elif start_from is not None and (start_from / run.path.name).exists():
            last = torch.load(start_from / run.path.name, weights_only=True, map_location=family.device)
            run.optimizer.load_state_dict(last["optimizer"])  # Adam's moments carry over
        for group in run.optimizer.param_groups:
            group["lr"] = config.learning_rate  # a state holds the rate that it was made with
        return run

    def save(self, epoch: int) -> None:
        """Write the state so that a kill leaves either the old one or the new one.

        Raises:
            WorkspaceError: the disk is full, or the folder cannot be written.
        """
        self.epoch = epoch
        state: dict[str, Any] = {
            "settings": self.settings,
            "epoch": epoch,
            "epoch_of_value": self.epoch_of_value,
            "lora": [parameter.detach().cpu() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict(),
        }
        if self.value is not None and self.value_optimizer is not None:
            state |= {"value": self.value.state_dict(), "value_optimizer": self.value_optimizer.state_dict()}
        buffer = io.BytesIO()  # on a full disk torch itself would fail with a RuntimeError about its zip file
        torch.save(state, buffer)
        write_atomically(self.path, buffer.getvalue())

    def _restore(self) -> None:
        state = torch.load(self.path, weights_only=True, map_location=self.family.device)
        for name, begun_with in state["settings"].items():
            if begun_with != self.settings[name]:
                raise ConfigError(
                    f"{name} is {self.settings[name]}, but this round's training was begun with {begun_with}.",
                    hint=f"Set {name} back, or delete {self.path} to train this round from its beginning.",
                )
        for parameter, saved in zip(self.parameters, state["lora"], strict=True):
            parameter.data.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.value is not None and self.value_optimizer is not None:
            self.value.load_state_dict(state["value"])
            self.value_optimizer.load_state_dict(state["value_optimizer"])
        self.epoch, self.epoch_of_value = state["epoch"], state["epoch_of_value"]
        logger.info("resumed after epoch %d", self.epoch)

    def check_ratio(self, error: float, allowed: float) -> None:
        """The policy has not moved yet, so every ratio must be 1 (measured before any clamp)."""
        if error <= allowed:
            return
        message = f"The policy ratio is not 1 on fresh samples: |log ratio| reaches {error:.2g} nats"
        if not math.isfinite(error):
            raise self.diverged(f"{message}.")
        raise TrainingError(
            f"{message} (allowed: {allowed:.2g}).", hint="Collect and train in the same precision; float32 is exact."
        )

    def diverged(self, message: str) -> TrainingError:
        """Drops the state: going on from it, the same named noise would bring the same numbers at any rate."""
        self.path.unlink(missing_ok=True)
        rate = self.optimizer.param_groups[0]["lr"]
        also = "" if self.family.dtype == torch.float32 else ", or model.dtype=float32"
        instead = f"Use a train.learning_rate below {rate:g}{also}"
        return TrainingError(message, hint=f"{instead}: this round's training then starts anew.")


def _choose(by_task: Mapping[str, Sequence[str]], count: int, place: tuple[object, ...], epoch: int) -> list[str]:
    """The epoch's prompts: the tasks in turn, and of each task passes through shuffles of all its prompts."""
    chosen = []
    tasks = list(by_task.items())
    for i in range(epoch * count, (epoch + 1) * count):
        turn, which = divmod(i, len(tasks))
        task, prompts = tasks[which]
        lap, index = divmod(turn, len(prompts))
        order = torch.randperm(len(prompts), generator=generator(*place, "prompts", task, lap))
        chosen.append(prompts[int(order[index])])
    return chosen


def _fit_value(run: _Run, transitions: _Transitions) -> float:
    """Five passes of regression on the advantages within the group; returns the last loss."""
    assert run.value is not None
    assert run.value_optimizer is not None
    loss = torch.zeros(())
    for _ in range(5):
        loss = F.mse_loss(run.value(transitions.x_t, transitions.text, transitions.step), transitions.relative)
        run.value_optimizer.zero_grad()
        loss.backward()
        run.value_optimizer.step()
    run.epoch_of_value += 1
    return loss.item()
