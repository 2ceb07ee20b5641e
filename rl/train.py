"""THE loop of the algorithm: collect -> score -> advantages -> update. Resumes bit for bit from its last epoch."""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hitl.core.errors import ConfigError
from rl import backpropagation, policy_gradient, preferences, regression
from rl.algorithms.best_of_n import BestOfN
from rl.algorithms.contract import Algorithm, Backpropagation, PolicyGradient, Preference, Regression
from rl.backpropagation import require_differentiable
from rl.config import SampleConfig, TrainConfig
from rl.families.family import Family
from rl.preferences import Comparisons, Traces
from rl.randomness import generator
from rl.ranks import Ranks
from rl.rollout import SMALLEST_SIGMA, collect
from rl.scores import checked_scores
from rl.state import TrainingState

logger = logging.getLogger(__name__)


@runtime_checkable
class Watch(Protocol):
    """Somebody who looks at the policy between epochs, judges it by what this package knows nothing of, and may end
    the training. Of several processes the first alone asks. Looks leave no trace in what a training draws."""

    def look(self, epoch: int) -> bool:
        """The family holds the policy of so many epochs, whose state is in `folder/state.pt`. True: end here. A run
        that goes on after a kill asks again for the epoch it goes on from."""
        ...

    def kept(self) -> Path | None:
        """Asked once at the end: a copy of the state to end with; None for the last."""
        ...


Reward = Callable[[UInt8[Tensor, "batch 3 height width"], Sequence[str]], Float[Tensor, "batch"]]


def train(
    family: Family,
    algorithm: PolicyGradient | Regression | Backpropagation | BestOfN,
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
    watch: Watch | None = None,
) -> None:
    """Train the policy for `config.epochs` epochs, or go on from `folder/state.pt`; ends with the policy in `folder`.

    Args:
        place: names the run's randomness, as (seed, round); the same in all processes that share the run, those of
            torch's process group, which each draw their part of an epoch's images.
        tasks: the task of each prompt. Each task is then visited equally often, however many prompts it has.
        start_from: folder of the policy to go on from (the last round's); None starts at the reference.
        on_epoch: told the number of finished epochs and the last one's metrics.
        watch: looks at the policy before the first epoch and after each.

    Raises:
        TrainingError: the policy ratio is not 1 on the first pass over fresh samples, the reward does not give one
            finite score for each image, or the gradient is not finite.
        ConfigError: settings that a round cannot change on its way have changed, or ask for what cannot be done.
    """
    require_settings_of_use(algorithm, family, config, sample)
    differentiable = None
    if isinstance(algorithm, Backpropagation):
        differentiable = require_differentiable(reward, algorithm)
    ranks = Ranks.here()
    run = TrainingState.start(family, config, sample, folder, place, start_from)
    if isinstance(algorithm, BestOfN):
        run.save(0)
        if not ranks.rank:
            family.save_policy(folder)
        return
    _require_even_shares(config, ranks)
    run.try_compiling(config, sample)
    by_task: dict[str, list[str]] = {}
    for prompt, task in zip(prompts, tasks or [""] * len(prompts), strict=True):
        by_task.setdefault(task, []).append(prompt)
    if isinstance(algorithm, PolicyGradient):
        _say_untrained_steps(family, sample)
    for epoch in range(run.epoch, config.epochs):
        if _is_ended(run, watch, epoch):
            break
        started = time.monotonic()
        chosen = _choose(by_task, config.prompts_per_epoch, place, epoch)
        here = (*place, epoch)
        if isinstance(algorithm, Backpropagation):
            assert differentiable is not None
            scores, metrics = backpropagation.update(run, algorithm, differentiable, chosen, config, sample, here)
            metrics["seconds_update"] = time.monotonic() - started
        else:
            own = ranks.own(len(chosen))
            with family.reference() if _draws_by_reference(algorithm) else contextlib.nullcontext():
                told = chosen[own.start : own.stop]
                trajectory = collect(family, told, config.images_per_prompt, sample, here, own.start)
            collected = time.monotonic()
            scores = checked_scores(reward(trajectory.images, trajectory.prompts), trajectory.prompts)
            scores = ranks.gather(scores.to(family.device)).cpu().reshape(len(chosen), config.images_per_prompt)
            scored = time.monotonic()
            if isinstance(algorithm, Regression):
                metrics = regression.update(run, algorithm, trajectory, scores, config, here)
            else:
                metrics = policy_gradient.update(run, algorithm, trajectory, scores, chosen, config, sample, here)
            metrics |= {
                "seconds_collect": collected - started,
                "seconds_score": scored - collected,
                "seconds_update": time.monotonic() - scored,
            }
        metrics |= {
            "reward_mean": float(scores.mean()),
            "reward_std": float(scores.std()),
            "reward_std_within_prompt": float(scores.std(dim=1).mean()),
        }
        _finish_epoch(run, epoch + 1, metrics, on_epoch)
    else:
        _is_ended(run, watch, config.epochs)
    _end(run, watch, folder)


def train_on_comparisons(
    family: Family,
    algorithm: Preference,
    compared: Comparisons,
    traces: Traces | None,
    config: TrainConfig,
    sample: SampleConfig,
    *,
    folder: Path,
    place: tuple[object, ...],
    start_from: Path | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, metrics: None,
    watch: Watch | None = None,
) -> None:
    """The same for an algorithm that needs no reward: epochs of comparisons instead of fresh images.

    Args:
        traces: how the compared images were drawn, for an algorithm that learns from steps.

    Raises:
        TrainingError, ConfigError: as `train`.
    """
    require_settings_of_use(algorithm, family, config, sample)
    run = TrainingState.start(family, config, sample, folder, place, start_from)
    run.try_compiling(config, sample)
    for epoch in range(run.epoch, config.epochs):
        if _is_ended(run, watch, epoch):
            break
        started = time.monotonic()
        metrics = preferences.update(run, algorithm, compared, traces, config, (*place, epoch))
        metrics["seconds_update"] = time.monotonic() - started
        _finish_epoch(run, epoch + 1, metrics, on_epoch)
    else:
        _is_ended(run, watch, config.epochs)
    _end(run, watch, folder)


def _finish_epoch(
    run: TrainingState, epoch: int, metrics: dict[str, float], on_epoch: Callable[[int, dict[str, float]], None]
) -> None:
    if run.compile_gain is not None:
        metrics["compile_gain"] = run.compile_gain
    metrics = run.ranks.combine(metrics)
    if not run.ranks.rank:  # before the state: a kill between the two repeats the epoch and tells it again
        on_epoch(epoch, metrics)
    run.save(epoch)


def _is_ended(run: TrainingState, watch: Watch | None, epoch: int) -> bool:
    """Whether who watches ends the training after so many epochs."""
    if watch is None:
        return False
    if not run.path.exists():
        run.save(epoch)  # at the start, to have that to go back to as well
    return run.ranks.first(lambda: watch.look(epoch))


def _end(run: TrainingState, watch: Watch | None, folder: Path) -> None:
    """Put the last policy into the folder, or the one that who watches keeps."""
    if not run.ranks.rank:
        if watch is not None and (kept := watch.kept()) is not None:
            run.go_back(kept)
        run.family.save_policy(folder)
    run.ranks.wait()


def _require_even_shares(config: TrainConfig, ranks: Ranks) -> None:
    """Raise a ConfigError for what several processes cannot share."""
    if config.prompts_per_epoch % ranks.count:
        raise ConfigError(
            f"train.prompts_per_epoch is {config.prompts_per_epoch}, which {ranks.count} processes cannot share.",
            hint=f"Use a multiple of {ranks.count}.",
        )
    if config.replay and ranks.count > 1:
        raise ConfigError(
            f"train.replay is {config.replay}, but there are {ranks.count} processes, and each would keep its own.",
            hint="Set train.replay = 0, or use one process.",
        )


def _say_untrained_steps(family: Family, sample: SampleConfig) -> None:
    std = family.process.schedule(sample.steps, eta=sample.eta, window=sample.window).std[: sample.window]
    silent = [i + 1 for i, each in enumerate(std.tolist()) if each <= SMALLEST_SIGMA]
    if silent and len(silent) < len(std):
        logger.warning(
            "Of the window's %d steps, %s without noise in this model's schedule: drawn, but not trained.",
            len(std),
            f"step {silent[0]} is" if len(silent) == 1 else f"steps {silent[0]} to {silent[-1]} are",
        )


def _draws_by_reference(algorithm: Algorithm) -> bool:
    return isinstance(algorithm, Regression) and algorithm.learns_from_reference


def require_settings_of_use(algorithm: Algorithm, family: Family, config: TrainConfig, sample: SampleConfig) -> None:
    """Raise a ConfigError for settings that this algorithm makes nothing of, or something wrong."""
    if isinstance(algorithm, BestOfN):
        return
    if config.weights == "full" and family.dtype == torch.float16:
        raise ConfigError(
            "model.dtype is float16, but train.weights is full: gradients of all weights are too small for it.",
            hint="Set model.dtype = bfloat16, or float32.",
        )
    if isinstance(algorithm, PolicyGradient):
        if config.replay:
            _require_replay(algorithm, family, config)
        return
    if config.value_function or config.replay:
        name = "train.value_function" if config.value_function else "train.replay"
        raise ConfigError(
            f"{name} is set, but train.algorithm = {config.algorithm!r} learns from images and has no use for it.",
            hint=f"Set {name} back, or use an algorithm of policy gradient, such as dpok.",
        )
    if isinstance(algorithm, Backpropagation) and algorithm.last_steps > sample.steps:
        raise ConfigError(
            f"algorithm.last_steps is {algorithm.last_steps}, but sample.steps is {sample.steps}.",
            hint="Set algorithm.last_steps lower.",
        )
    if family.dtype == torch.float16 and not (isinstance(algorithm, Preference) and algorithm.learns_from_steps):
        raise ConfigError(
            f"model.dtype is float16, but gradients of train.algorithm = {config.algorithm!r} are too small for it.",
            hint="Set model.dtype = bfloat16, or float32.",
        )


def _require_replay(algorithm: PolicyGradient, family: Family, config: TrainConfig) -> None:
    """Raise a ConfigError where older transitions would teach something wrong."""
    off = "Set train.replay = 0"
    if not algorithm.has_ratio:
        raise ConfigError(
            f"train.replay is {config.replay}, but train.algorithm = {config.algorithm!r} is right for fresh samples "
            "alone: it does not weigh an older one by how much likelier it is now.",
            hint=f"{off}, or use dpok or ddpo_is.",
        )
    if family.dtype != torch.float32:
        raise ConfigError(
            f"train.replay is {config.replay}, but in {str(family.dtype).removeprefix('torch.')} an older transition's "
            "log-probability is off by rounding, of the batch it was drawn in.",
            hint=f"{off}, or model.dtype = float32.",
        )


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
