"""How much of a policy gradient is signal: its signal-to-noise ratio under each setting against variance.

    python -m benchmarks.gradient_noise --out benchmarks/results/gradient_noise.json

The policy does not move: many epochs' images are drawn from one policy, and the gradient of each is kept. With g_i that
of epoch i and m epochs, the mean of g_i . g_j over i != j is an unbiased estimate of the squared norm of the expected
gradient (the signal S), the mean of |g_i|^2 that of S plus the noise N. The ratio S / N of an epoch of n images grows
with n, so that it is given for 128 images and, as everybody pays in time, for ten seconds of drawing and learning.
Intervals are a jackknife's over epochs, two standard errors wide. A ratio of 0.1 means that ten epochs at the same
policy are needed until signal and noise are of one size.

Settings change what is estimated, too: a window of one step has no gradient at the others. Two rewards: the simulated
raters' taste, which is dense, and the verifier's graded correctness, the hard part. No reward model takes part.
"""

import argparse
import json
import math
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe
from benchmarks.scores import correctness
from data.prompt_list import starter_prompts
from data.world.captions import TASKS
from data.world.taste import taste
from hitl.config import RunConfig
from rl.algorithms.dpok import Dpok
from rl.config import TrainConfig
from rl.families.loading import load_family
from rl.policy_gradient import update
from rl.rollout import Trajectory, collect
from rl.state import TrainingState

SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "fresh start for each image": ({"shared_noise": False}, {}),
    "antithetic noise": ({"antithetic": True}, {}),
    "window 1": ({"window": 1}, {}),
    "window 2": ({"window": 2}, {}),
    "window 5": ({"window": 5}, {}),
    "window 10": ({"window": 10}, {}),
    "window 10, steps not levelled": ({"window": 10}, {"level_steps": False}),
    "eta 0.5": ({"eta": 0.5}, {}),
    "groups of 4": ({}, {"images_per_prompt": 4, "prompts_per_epoch": 32}),
    "groups of 16": ({}, {"images_per_prompt": 16, "prompts_per_epoch": 8}),
    "value function": ({}, {"value_function": True}),
}
"""Name -> what differs from the defaults in `sample` and in `train`. Every epoch has 128 images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=16, help="of 128 images, for each setting")
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.epochs < 3:
        parser.error("--epochs must be 3 or more: the interval leaves one out, and needs two for a product.")
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {
        "machine": describe(),
        "command": shlex.join(["python", "-m", "benchmarks.gradient_noise", *sys.argv[1:]]),
        "settings": {},
    }
    for name in arguments.only:
        result["settings"][name] = measure(name, arguments.epochs)
        print(name, json.dumps(result["settings"][name]), flush=True)
        if arguments.out:  # after every setting: a run that is cut off keeps what it saw
            arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def measure(name: str, epochs: int) -> dict[str, Any]:
    usual = RunConfig()
    sample = replace(usual.sample, **SETTINGS[name][0])
    config = replace(usual.train, max_grad_norm=math.inf, learning_rate=1e-30, **SETTINGS[name][1])
    rewards = {"taste": _taste, "correctness": lambda drawn: correctness(drawn.images, drawn.prompts)}
    gradients: dict[str, list[torch.Tensor]] = {reward: [] for reward in rewards}
    seconds = 0.0
    with TemporaryDirectory() as folder:
        # One policy each: a value function learns from one reward.
        states = {
            reward: TrainingState.start(load_family("starter"), config, sample, Path(folder) / reward, (0, 1), None)
            for reward in rewards
        }
        for epoch in range(epochs):
            place = ("gradient noise", epoch)
            started = time.monotonic()
            chosen = _prompts(config, epoch)
            trajectory = collect(states["taste"].family, chosen, config.images_per_prompt, sample, place)
            seconds += time.monotonic() - started
            for reward, score in rewards.items():
                scores = score(trajectory).reshape(len(chosen), config.images_per_prompt)
                started = time.monotonic()
                update(states[reward], Dpok(kl_weight=0.0), trajectory, scores, chosen, config, sample, place)
                seconds += (time.monotonic() - started) / len(rewards)
                gradients[reward].append(
                    torch.cat([torch.as_tensor(p.grad).flatten() for p in states[reward].parameters])
                )
    each = seconds / epochs
    return {
        "images_per_epoch": config.prompts_per_epoch * config.images_per_prompt,
        "seconds_per_epoch": round(each, 2),
        **{reward: signal_to_noise(torch.stack(found), 10 / each) for reward, found in gradients.items()},
    }


def signal_to_noise(gradients: torch.Tensor, epochs_in_ten_seconds: float) -> dict[str, float]:
    """Of (epochs, numbers): the ratio of squared norms in one epoch's gradient, and two jackknife standard errors."""
    products = (gradients.double() @ gradients.double().T).numpy()
    count = len(products)
    ratio = _ratio(products)
    without = [_ratio(np.delete(np.delete(products, i, 0), i, 1)) for i in range(count)]
    error = math.sqrt((count - 1) * float(np.var(without)))
    return {
        "per_128_images": ratio,
        "plus_minus": 2 * error,
        "per_10_seconds": ratio * epochs_in_ten_seconds,
        "plus_minus_per_10_seconds": 2 * error * epochs_in_ten_seconds,
    }


def _ratio(products: np.ndarray) -> float:
    count = len(products)
    signal = (products.sum() - products.trace()) / (count * (count - 1))
    return float(signal / (products.trace() / count - signal))


def _prompts(config: TrainConfig, epoch: int) -> list[str]:
    """The tasks in turn, each going through its trained-on prompts."""
    by_task = [[p.text for p in starter_prompts(32, 1) if p.task == task and p.split == "train"] for task in TASKS]
    first = epoch * config.prompts_per_epoch
    chosen = [divmod(first + i, len(by_task)) for i in range(config.prompts_per_epoch)]
    return [by_task[which][turn % len(by_task[which])] for turn, which in chosen]


def _taste(trajectory: Trajectory) -> torch.Tensor:
    return torch.tensor([taste(picture.numpy()) for picture in trajectory.images.permute(0, 2, 3, 1)])


if __name__ == "__main__":
    main()
