"""Rendered scenes to pretrain on: picture `i` of a seed is always the same, whichever process draws it."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np

from data.world.captions import TASKS, sample
from data.world.scenes import render

TASK_SHARES = (0.08, 0.17, 0.11, 0.54, 0.1)
"""Of the scenes, by task: relations are learned last and need the most, colours are learned within minutes."""


def draw_scene(index: int, *, seed: int) -> tuple[str, np.ndarray]:
    """Caption and picture (uint8, 64 x 64 x 3) number `index`."""
    rng = np.random.default_rng((seed, index))
    text, scene = sample(rng, task=str(rng.choice(TASKS, p=TASK_SHARES)))
    return text, render(scene)


def draw_pool(seed: int, start: int, count: int, processes: int) -> tuple[list[str], np.ndarray]:
    """Captions and pictures (count, 64, 64, 3) number `start` ... `start + count - 1`."""
    with ProcessPoolExecutor(processes) as executor:
        drawn = list(executor.map(partial(draw_scene, seed=seed), range(start, start + count), chunksize=256))
    return [text for text, _ in drawn], np.stack([picture for _, picture in drawn])
