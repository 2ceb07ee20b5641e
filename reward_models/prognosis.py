"""How many comparisons would probably settle whether a reward model is better than a coin."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from data.bootstrap import Interval

PROBABLY = 0.8
"""Chance that the interval is clear of one half once there are so many comparisons."""

_FURTHEST = 100  # times today's comparisons: an estimate beyond says nothing
_STEP = 1.02


def ratings_needed(curve: Sequence[tuple[int, float, int]], now: Interval, comparisons: int) -> int | None:
    """Comparisons in all that would probably put the low end of the accuracy's interval above 1/2.

    `now` is the accuracy with all of today's `comparisons`; `curve` has (comparisons fitted on, accuracy, pairs judged)
    of fits on fewer. Accuracy goes on from `now` along the curve's line against log2(comparisons), never down and never
    above the high end of `now`; the interval shrinks with the root of the comparisons, so the new ones must be of new
    prompts as today's are. Noisy by nature: of simulated cases most are within a factor of 3 of the truth.

    Today's number where that is settled already. None without hope: not above 1/2 and no upward trend, no interval, or
    more than 100 times today's.
    """
    if not math.isfinite(now.low):
        return None
    if now.low > 0.5:
        return comparisons
    half = now.mean - now.low
    wanted = half * (
        1 + float(norm.ppf(PROBABLY) / norm.ppf(0.975))
    )  # so that chance may take its share and leave half
    slope = max(_slope(curve), 0.0)
    for step in range(1, math.ceil(math.log(_FURTHEST) / math.log(_STEP)) + 1):
        times = _STEP**step
        accuracy = min(now.mean + slope * math.log2(times), now.high)
        if accuracy - 0.5 > wanted / math.sqrt(times):
            return _rounded(comparisons * times)
    return None


def _slope(curve: Sequence[tuple[int, float, int]]) -> float:
    """Accuracy gained with each doubling, by least squares weighted with the pairs judged."""
    told = [point for point in curve if point[0]]  # of very few answers a part may be none
    fitted_on, accuracy, judged = np.array(told, dtype=float).reshape(-1, 3).T
    if judged.sum() <= 0:
        return 0.0
    x = np.log2(fitted_on)
    x = x - np.average(x, weights=judged)
    spread = float(judged @ x**2)
    return float(judged @ (x * accuracy)) / spread if spread > 1e-9 else 0.0


def _rounded(number: float) -> int:
    """Up to two significant digits: more would be a promise."""
    unit = 10 ** max(math.floor(math.log10(number)) - 1, 0)
    return math.ceil(number / unit) * unit
