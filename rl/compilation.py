"""torch.compile on trial: a policy's repeated blocks are compiled, and kept so where an image then costs less time."""

import logging
import math
import time
from collections.abc import Callable

import torch
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

from rl.config import SampleConfig, TrainConfig
from rl.families.family import Family
from rl.randomness import generator
from rl.ranks import Ranks

logger = logging.getLogger(__name__)

LEAST_GAIN = 0.03
"""Share of an image's time. What gains less is noise on a shared machine."""
_TRIES = 3


def compile_on_trial(family: Family, config: TrainConfig, sample: SampleConfig, gain: float | None = None) -> float:
    """Compile, and switch that off again where it gains nothing: a setting that is never slower unnoticed.

    Args:
        gain: of an earlier trial of the same round, which decides without another.

    Returns:
        Share of the time for drawing an image and learning from its steps that compiled blocks save; 0 where they are
        left as they were.
    """
    if gain == 0:
        return gain
    seconds, seconds_compiling = None, 0.0
    try:
        seconds_compiling = _compile(family, config, sample)
        if gain is None:
            seconds = _measure(family, _passes(family, sample.batch_size, config.batch_size, sample))
            gain = 1 - seconds[True] / seconds[False]
    except (TorchDynamoException, CppCompileError, InvalidCxxCompiler) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        logger.warning("train.compile is on, but this machine cannot compile (%s): trained without.", reason.strip())
        gain = -math.inf
    gain = Ranks.here().mean(gain)  # several processes decide alike, and what one cannot compile none does
    is_kept = gain >= LEAST_GAIN
    family.compile_blocks(is_kept)
    if seconds is not None:
        logger.log(
            logging.INFO if is_kept else logging.WARNING,
            "train.compile: an image takes %.3g s compiled and %.3g s as it is: %s. Compiling took %.0f s%s.",
            *(seconds[True], seconds[False]),
            "kept" if is_kept else "left as it is",
            seconds_compiling,
            "" if is_kept else "; set train.compile = false to save them",
        )
    return gain if is_kept else 0.0


def _compile(family: Family, config: TrainConfig, sample: SampleConfig) -> float:
    """The seconds it took. After a restart too: what torch compiles depends on the sizes that it meets first."""
    started = time.monotonic()
    family.compile_blocks(True)
    # A batch as large as one of the network's widths would be taken for that width, and compiled for it alone.
    for once in _passes(family, (sample.batch_size - 1) | 1, (config.batch_size - 1) | 1, sample):
        once()
    return time.monotonic() - started


def _measure(family: Family, passes: tuple[Callable[[], float], ...]) -> dict[bool, float]:
    """Seconds that an image takes, compiled and not."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(1 + _TRIES):
        for is_compiled, tries in seconds.items():
            family.compile_blocks(is_compiled)
            tries.append(sum(once() for once in passes))
    return {is_compiled: min(tries[1:]) for is_compiled, tries in seconds.items()}


def _passes(family: Family, drawn: int, learned: int, sample: SampleConfig) -> tuple[Callable[[], float], ...]:
    """Drawing, the reference's part and learning, in batches of so many; each says the seconds that an image takes."""

    def predict(rows: int) -> torch.Tensor:
        x = torch.randn((rows, *family.latent_shape), generator=generator("compile")).to(family.device)
        timesteps = torch.full((rows,), family.process.levels // 2, device=family.device)
        return family.predict(x, timesteps, ["compile"] * rows, guidance=sample.guidance)

    def draw() -> None:
        with torch.no_grad():
            predict(drawn)

    def refer() -> None:
        with family.reference():
            predict(learned)

    def learn() -> None:
        predict(learned).square().mean().backward()
        family.drop_gradients()

    def timed(run: Callable[[], None], images: float) -> Callable[[], float]:
        def once() -> float:
            _synchronize(family.device)
            started = time.monotonic()
            run()
            _synchronize(family.device)
            return (time.monotonic() - started) / images

        return once

    images = learned / sample.window
    return timed(draw, drawn / sample.steps), timed(refer, images), timed(learn, images)


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
