"""Intervals over prompts for what a reward model is judged by: right also where there are few of them."""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy.stats import norm
from scipy.stats import t as student

from data.bootstrap import Interval, cluster_interval

FEW_CLUSTERS, LEAST_CLUSTERS = 20, 5
"""Prompts below which the bootstrap gives way to Student's t, and below which nothing is concluded.

Of 1,500 simulated coins (3 to 40 comparisons of each prompt, prompts alike or not) 2.5 % should pass. The plain
bootstrap lets 14 to 24 % pass with 2 prompts, 6 to 8 % with 6, 4 to 5 % with 10, 3 to 4 % with 20; Student's t on the
prompts' sums 2 to 4 % from 3 prompts on. With one comparison of each prompt, 4 prompts are all right by luck once in
16: so 5.
"""


def interval(
    values: Float[np.ndarray, "n"],
    clusters: np.ndarray,
    *,
    seed: int,
    weights: Float[np.ndarray, "n"] | None = None,
) -> Interval:
    """95 % interval of a mean over clusters: the bootstrap's, or of few clusters Student's t of their sums.

    Values count by their weights, or all alike.

    The bootstrap's is made wider by the little that resampling k clusters misses (the expanded percentile interval of
    Hesterberg 2015, arXiv:1411.5279): without, 92 % of the intervals over 25 to 40 unequal prompts had the truth in
    them, with it 94 %. Without values everything is nan; with one cluster the ends are.
    """
    found = cluster_interval(values, clusters.tolist(), weights=weights, seed=seed)
    if found.clusters < 2:
        return found
    inflation = math.sqrt(found.clusters / (found.clusters - 1))
    quantile = float(student.ppf(0.975, found.clusters - 1))
    if found.clusters < FEW_CLUSTERS:
        away, total = values - found.mean, float(found.n)
        if weights is not None:
            away, total = away * weights, float(weights.sum())
        sums = np.bincount(np.unique(clusters, return_inverse=True)[1], weights=away)
        low = high = quantile * inflation * math.sqrt(float(sums @ sums)) / total
    else:
        wider = quantile / float(norm.ppf(0.975)) * inflation
        low, high = wider * (found.mean - found.low), wider * (found.high - found.mean)
    return replace(found, low=found.mean - low, high=found.mean + high)


def cross_validated(found: Interval, parts: int) -> Interval:
    """The interval of what a fit's parts held out, wider by what they owe to each other: of two answers in two parts
    each helped to fit what the other is judged on.

    That adds k / (k - 1) times the variance for k parts (Nadeau and Bengio 2003, doi:10.1023/A:1024068626366). Of 200
    fits on answers thrown by a coin (160 about 30 prompts, 64 features) 12 % had an interval above one half without
    it, where 2.5 % should (`python -m benchmarks.reward_truth --only coin`).
    """
    wider = math.sqrt(1 + parts / (parts - 1)) if parts > 1 else 1.0
    return replace(
        found, low=found.mean - wider * (found.mean - found.low), high=found.mean + wider * (found.high - found.mean)
    )
