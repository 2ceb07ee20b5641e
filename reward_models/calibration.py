"""Whether a reward model's probabilities mean what they say: temperature, Brier score, calibration error.

Differences of scores have no unit. A temperature T gives them one: the first image wins with probability
sigmoid(difference / T). Everything here is about decided pairs; `outcome` is 1 where the first won and -1 elsewhere.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import root_scalar
from scipy.special import expit

from data.bootstrap import Interval, interval

PER_BIN, MOST_BINS = 20, 10
"""Fewest pairs that a bin of the reliability plot is made for, and most bins."""

_SAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Pairs on which the model is about equally sure of the image that it prefers."""

    low: float
    high: float
    """The range of that confidence, from 1/2 (a coin) to 1."""
    predicted: float
    """Its mean."""
    observed: Interval
    """How often the image that the model prefers won."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    brier: Interval
    """Mean squared error of the probability (Brier 1950): 0 is perfect, a coin has 1/4."""
    ece: Interval
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, Eq. 3): mean over the pairs of the gap between
    confidence and share of right answers in the pair's bin. Chance alone makes gaps, the larger the fewer the pairs:
    an error that `ece_if_calibrated` reaches too is no evidence of any, and its interval begins at 0.
    """
    ece_if_calibrated: Interval
    """What the same probabilities would show if they were exactly true, with the range of 95 % of such worlds."""
    bins: tuple[Bin, ...]


def inverse_temperature(difference: Float[np.ndarray, "pairs"], outcome: Int[np.ndarray, "pairs"]) -> float:
    """1 / T by maximum likelihood (Guo et al. 2017, section 4.2). 0, a coin, where the scores tell nothing.

    Deviation: the winner's target is (n + 1) / (n + 2) instead of 1 (Platt 1999), so that T is above 0 when the scores
    are right on every pair: ten out of ten is no proof of certainty.
    """
    along = (difference * outcome)[outcome != 0]  # above 0 where the scores are right
    if along.sum() <= 0:  # no pairs, equal scores, or more wrong than right: the likelihood falls from 0 on
        return 0.0
    scale = np.abs(along).mean()
    along = along / scale
    target = (len(along) + 1) / (len(along) + 2)

    def slope(inverse: float) -> float:
        return float(along @ (target - expit(inverse * along)))

    high = 1.0
    while slope(high) > 0:
        high *= 2
    return float(root_scalar(slope, bracket=(0.0, high)).root) / float(scale)


def win_probability(
    difference: Float[np.ndarray, "pairs"], outcome: Int[np.ndarray, "pairs"], fold: np.ndarray
) -> Float[np.ndarray, "pairs"]:
    """Probability that the first image wins, with the temperature of the other parts of the cross-validation."""
    inverse = np.zeros(len(difference))
    for part in np.unique(fold):
        held_out = fold == part
        inverse[held_out] = inverse_temperature(difference[~held_out], outcome[~held_out])
    return expit(inverse * difference)


def calibration(
    probability: Float[np.ndarray, "pairs"], outcome: Int[np.ndarray, "pairs"], clusters: np.ndarray, *, seed: int
) -> Calibration:
    """How far the probabilities of the first image can be taken at their word, over decided pairs.

    Binned is the confidence in the preferred image, max(p, 1 - p), so that nothing depends on which image is called
    first. Bins hold about equally many pairs; equal confidences share a bin.
    """
    confidence = np.maximum(probability, 1 - probability)
    right = 0.5 + 0.5 * np.sign(probability - 0.5) * outcome
    brier = interval((probability - (outcome + 1) / 2) ** 2, clusters, seed=seed)
    if not len(probability):
        return Calibration(brier=brier, ece=brier, ece_if_calibrated=brier, bins=())
    index = _bin_of(confidence)
    bins = tuple(
        Bin(
            low=float(confidence[inside].min()),
            high=float(confidence[inside].max()),
            predicted=float(confidence[inside].mean()),
            observed=interval(right[inside], clusters[inside], seed=seed),
        )
        for inside in (index == number for number in range(index.max() + 1))
    )
    if_calibrated = _ece_if_calibrated(confidence, index, brier.clusters, seed)
    ece = _ece(confidence - right, index, clusters, seed)
    if ece.mean <= if_calibrated.high:
        ece = replace(ece, low=0.0)
    return Calibration(brier=brier, ece=ece, ece_if_calibrated=if_calibrated, bins=bins)


def _bin_of(confidence: Float[np.ndarray, "pairs"]) -> Int[np.ndarray, "pairs"]:
    bins = int(np.clip(len(confidence) // PER_BIN, 1, MOST_BINS))
    edges = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    return np.unique(np.searchsorted(edges, confidence), return_inverse=True)[1]  # numbered without empty bins


def _ece(gap: Float[np.ndarray, "pairs"], index: Int[np.ndarray, "pairs"], clusters: np.ndarray, seed: int) -> Interval:
    """The sum over bins of |sum of gaps| / n; its interval by resampling clusters.

    The ends are the basic bootstrap's (twice the estimate minus a quantile, not the quantile itself): absolute values
    push the estimate up, and every resample up again from there, which the reflection takes back.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    count = int(cluster.max()) + 1
    table = np.zeros((count, int(index.max()) + 1))
    np.add.at(table, (cluster, index), gap)
    sizes = np.bincount(cluster)
    mean = float(np.abs(table.sum(0)).sum() / len(gap))
    if count == 1:
        return Interval(mean, float("nan"), float("nan"), len(gap), 1)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=_SAMPLES)
    again = np.abs(drawn @ table).sum(1) / (drawn @ sizes)
    low, high = 2 * mean - np.quantile(again, [0.975, 0.025])
    return Interval(mean, float(np.clip(low, 0, mean)), float(np.clip(high, mean, 1)), len(gap), count)


def _ece_if_calibrated(
    confidence: Float[np.ndarray, "pairs"], index: Int[np.ndarray, "pairs"], clusters: int, seed: int
) -> Interval:
    """By simulation, pair by pair: prompts that differ would show somewhat more."""
    rng = np.random.default_rng(seed)
    worlds = [
        np.abs(np.bincount(index, weights=confidence - (rng.random(len(confidence)) < confidence))).sum()
        for _ in range(_SAMPLES)
    ]
    shown = np.array(worlds) / len(confidence)
    low, high = np.quantile(shown, [0.025, 0.975])
    return Interval(float(shown.mean()), float(low), float(high), len(confidence), clusters)
