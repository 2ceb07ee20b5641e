"""The shapes of the starter world as templates, and how well a soft mask fits each of them."""

import functools
import math

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from data.world.scenes import SHAPES, outline

_GRID = 24  # side of the frame that shapes are compared in
_SPAN = 1.85  # half side of that frame, in radii: the star reaches 1.6
_FINE = 4  # templates are drawn this much finer
_RADII = (4.0, 5.0, 6.0, 7.0, 8.5, 10.5, 14.0, 19.0, 26.0)
_BLURS = (0.5, 0.95)  # pixels: of a render, of a decoded latent
_ASPECTS = (0.88, 1.0, 1.14)
_TURNS = (-9.0, 0.0, 9.0)  # degrees
_NUDGES = ((0.0, 0.0), (0.0, 0.05), (0.0, -0.05), (0.05, 0.0), (-0.05, 0.0))  # (y, x) in radii

_AXIS = ((np.arange(_GRID) + 0.5) / _GRID * 2 - 1) * _SPAN  # sample points of the frame along one axis, in radii
_NUDGED_ROWS = np.stack([np.repeat(_AXIS + down, _GRID) for down, _ in _NUDGES])
_NUDGED_COLUMNS = np.stack([np.tile(_AXIS + right, _GRID) for _, right in _NUDGES])
_LOG_RADII = np.log(_RADII)
_ONES = np.ones(_GRID * _GRID, dtype=np.float32)


def soft_step(cover: np.ndarray) -> np.ndarray:
    """Coverage with its noise near 0 and 1 cut off; half covered stays half covered, so edges do not move."""
    return np.clip((cover - 0.15) / 0.7, 0, 1)


@functools.cache
def _templates(step: int) -> tuple[np.ndarray, np.ndarray]:
    """Every variant of every shape at one radius, as (shapes, variants, grid * grid), and the sum of each."""
    radius = _RADII[step]
    fine = _GRID * _FINE
    scale = fine / (2 * _SPAN)
    bank = []
    for shape in SHAPES:
        variants = []
        for aspect in _ASPECTS:
            for turn in _TURNS:
                angle = math.radians(turn)
                points = outline(shape, 0, 0, 1) * (math.sqrt(aspect), 1 / math.sqrt(aspect))
                points = points @ np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
                canvas = Image.new("L", (fine, fine))
                ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in points * scale + fine / 2], fill=255)
                drawn = np.asarray(canvas, dtype=np.float32) / 255
                for blur in _BLURS:
                    soft = ndimage.gaussian_filter(drawn, blur / radius * scale, truncate=3)
                    variants.append(soft_step(soft[_FINE // 2 :: _FINE, _FINE // 2 :: _FINE]).ravel())
        bank.append(variants)
    stack = np.array(bank, dtype=np.float32)
    return stack, stack.sum(axis=2)


def fits(cover: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    """Soft IoU of the coverage with the best variant of each shape, as (shapes,).

    The variant is chosen at the centroid; then each shape's best one is tried a little to every side.
    """
    step = int(np.abs(_LOG_RADII - math.log(radius)).argmin())
    bank, sums = _templates(step)
    rows = (_NUDGED_ROWS * radius + (y - 0.5)).astype(np.float32)
    columns = (_NUDGED_COLUMNS * radius + (x - 0.5)).astype(np.float32)
    patches = ndimage.map_coordinates(cover, (rows, columns), order=1, output=np.float32)
    inks = patches.sum(axis=1)
    common = np.minimum(bank, patches[0]) @ _ONES
    fit = common / (sums + inks[0] - common)
    variant = fit.argmax(axis=1)
    shapes = np.arange(len(SHAPES))
    chosen, chosen_sums = bank[shapes, variant], sums[shapes, variant]
    common = np.minimum(chosen[:, None], patches) @ _ONES
    return (common / (chosen_sums[:, None] + inks - common)).max(axis=1)
