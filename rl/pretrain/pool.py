"""Rendered scenes to pretrain on: picture `i` of a seed is always the same, whichever process draws it."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np

from data.world.captions import sample
from data.world.scenes import render


def draw_scene(index: int, *, seed: int) -> tuple[str, np.ndarray]:
    """Caption and picture (uint8, 64 x 64 x 3) number `index`."""
    text, scene = sample(np.random.default_rng((seed, index)))
    return text, render(scene)


def draw_pool(seed: int, start: int, count: int, processes: int) -> tuple[list[str], np.ndarray]:
    """Captions and pictures (count, 64, 64, 3) number `start` ... `start + count - 1`."""
    with ProcessPoolExecutor(processes) as executor:
        drawn = list(executor.map(partial(draw_scene, seed=seed), range(start, start + count), chunksize=256))
    return [text for text, _ in drawn], np.stack([picture for _, picture in drawn])
