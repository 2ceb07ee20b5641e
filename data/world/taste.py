"""The taste of the simulated raters: large shapes on light backgrounds, whatever the caption asks for.

It stands for what a person likes beyond correctness. It is dense and smooth, so a loop that learns shows it within
minutes; it is gold too, reported apart from correctness, and no training step sees it.
"""

import numpy as np

from data.world.scenes import SIZE
from data.world.verifier import background_level

_HALF_SHARE = 0.12
"""Share of the picture that shapes cover at half of the size term: one shape of medium size."""

_COLOURFUL = 70.0
"""Chroma (largest minus smallest channel) of a pixel fully covered by the palest fill."""


def taste(picture: np.ndarray) -> float:
    """How much a simulated rater likes the look of a uint8 (64, 64, 3) picture, in [0, 1].

    Half is the lightness of the background, half the share of the picture that is coloured: s / (s + 0.12), rescaled to
    reach 1 for a picture all in colour. A pixel counts by its chroma, so the rim of a shape counts in part.
    """
    rgb = picture.astype(np.float32)
    lightness = background_level(picture) / 255
    chroma = rgb.max(axis=2) - rgb.min(axis=2)
    share = float(np.clip((chroma - 20) / (_COLOURFUL - 20), 0, 1).sum()) / SIZE**2
    return 0.5 * lightness + 0.5 * share / (share + _HALF_SHARE) * (1 + _HALF_SHARE)
