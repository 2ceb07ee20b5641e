"""Rendered scenes to pretrain on: picture `i` of a seed is always the same, whichever process draws it."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np

from data.world.captions import TASKS, sample
from data.world.scenes import render

TASK_SHARES = (0.08, 0.15, 0.13, 0.53, 0.11)
"""Of the scenes, by task: relations are learned last and need the most, colours are learned within minutes."""


def draw_scene(index: int, *, seed: int, shares: Sequence[float]) -> tuple[str, np.ndarray]:
    """Caption and picture (uint8, 64 x 64 x 3) number `index`; `shares` of the tasks, in the order of TASKS."""
    rng = np.random.default_rng((seed, index))
    text, scene = sample(rng, task=str(rng.choice(TASKS, p=shares)))
    return text, render(scene)


def draw_pool(
    seed: int, start: int, count: int, processes: int, shares: Sequence[float] = TASK_SHARES
) -> tuple[list[str], np.ndarray]:
    """Captions and pictures (count, 64, 64, 3) number `start` ... `start + count - 1`."""
    with ProcessPoolExecutor(processes) as executor:
        draw = partial(draw_scene, seed=seed, shares=shares)
        drawn = list(executor.map(draw, range(start, start + count), chunksize=256))
    return [text for text, _ in drawn], np.stack([picture for _, picture in drawn])
