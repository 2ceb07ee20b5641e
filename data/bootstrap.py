"""Intervals by resampling whole clusters (prompts, raters): observations of one cluster are not independent."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, its 95 % percentile interval, and how many observations and clusters it rests on."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int

    def to_dict(self) -> dict[str, float | int]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def cluster_interval(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[object],
    *,
    weights: np.ndarray | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of `values`, by `weights` or all alike, with a cluster-bootstrap interval. With one cluster the interval is
    the whole line's: nan.
    """
    value = np.asarray(values, dtype=float)
    if value.size == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    _, index = np.unique(np.asarray([str(cluster) for cluster in clusters]), return_inverse=True)
    count = int(index.max()) + 1
    mean = float(np.average(value, weights=weights))
    if count == 1:
        return Interval(mean, float("nan"), float("nan"), value.size, 1)
    sums = np.bincount(index, weights=value if weights is None else value * weights, minlength=count)
    sizes = np.bincount(index, weights=weights, minlength=count)
    drawn = np.random.default_rng(seed).integers(count, size=(samples, count))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean, float(low), float(high), value.size, count)
