"""What one vote says of its two images and of its rater, where the difference of the two scores is known as a Gaussian.

The model of a vote is that of `data.aggregation`; its integrals over the difference are Gauss-Hermite sums. Votes are
worked on some thousands at a time as arrays (nodes, votes), so that they stay in the processor's cache, and sums over
nodes are products with one small matrix.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.votes import Votes

_FEW_NODES, _MANY_NODES = 13, 32
"""Nodes of a vote's integral: narrow, and wide."""
_AT_ONCE = 2048
"""Votes worked on at a time."""


@dataclass(frozen=True, slots=True)
class Cavities:
    """Votes, what is known of each without it, and the parameters of the model. Arrays are (votes,)."""

    votes: Votes
    mean: np.ndarray
    """Of the difference of the two scores, by the prior and all other votes."""
    variance: np.ndarray
    slope: np.ndarray
    """Of the vote's rater."""
    shift: np.ndarray
    """To the first: the rater's bias, 0 where the two were not shown side by side."""
    tie: float
    is_wide: np.ndarray
    """Where slope times standard deviation is so large that the integral takes many nodes."""


@dataclass(frozen=True, slots=True)
class Derivatives:
    """Of each vote's log probability, by its rater's slope and bias and by log nu."""

    gradient: np.ndarray
    """(3, votes)"""
    information: np.ndarray
    """Minus the second derivative: (3, 3, votes)."""
    response: np.ndarray
    """How the gradient moves with the difference of scores: (3, votes)."""


def posterior(cavities: Cavities) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the difference of scores, given the vote too: (votes,) each."""
    mean, variance = np.empty(len(cavities.mean)), np.empty(len(cavities.mean))
    for rows, (nodes, powers) in _parts(cavities.is_wide):
        likelihood, _, _ = _likelihood(cavities, rows, nodes)
        once, z, z_squared = powers @ likelihood
        z, z_squared = z / once, z_squared / once
        mean[rows] = cavities.mean[rows] + np.sqrt(cavities.variance[rows]) * z
        variance[rows] = cavities.variance[rows] * (z_squared - z**2)
    return mean, variance


def derivatives(cavities: Cavities) -> Derivatives:
    """By Louis (1982, doi:10.1111/j.2517-6161.1982.tb01203.x): the information of a vote with its difference known, in
    the mean over the difference, less the variance of the gradient.
    """
    count, votes = len(cavities.mean), cavities.votes
    found = Derivatives(np.empty((3, count)), np.empty((3, 3, count)), np.empty((3, count)))
    for rows, (nodes, powers) in _parts(cavities.is_wide):
        likelihood, up, total = _likelihood(cavities, rows, nodes)
        leaning, equal = (up - 1 / up) / total, cavities.tie / total
        by_leaning, by_equal = likelihood * leaning, likelihood * equal
        # Means, given the vote, of these times 1, z and z^2: (3, votes) each.
        one, mean_l, mean_e = powers @ likelihood, powers @ by_leaning, powers @ by_equal
        mean_ll, mean_le = powers @ (by_leaning * leaning), powers @ (by_leaning * equal)
        mean_ee = powers @ (by_equal * equal)
        chance = one[0].copy()
        for each in (one, mean_l, mean_e, mean_ll, mean_le, mean_ee):
            each /= chance
        outcome, weight, side = votes.outcome[rows], votes.weight[rows], votes.is_side_by_side[rows]
        is_tie = outcome == 0
        # By d and by log nu: the log probability's derivatives are (outcome - leaning) / 2 and is_tie - equal.
        by_d, by_tie = (outcome * one - mean_l) / 2, is_tie * one - mean_e
        by_d_d = (one - mean_e - mean_ll - weight * (outcome**2 * one - 2 * outcome * mean_l + mean_ll)) / 4
        by_d_tie = -(mean_le + weight * (mean_le - outcome * mean_e - is_tie * mean_l)) / 2
        by_tie_tie = mean_e - mean_ee - weight * (is_tie * (one - 2 * mean_e) + mean_ee)
        # The same times the difference of scores, s, and times its square.
        middle, sd = cavities.mean[rows], np.sqrt(cavities.variance[rows])
        (d, d_s, d_ss), (t, t_s, _) = _in_scores(by_d, middle, sd), _in_scores(by_tie, middle, sd)
        (dd, dd_s, dd_ss), (dt, dt_s, _) = _in_scores(by_d_d, middle, sd), _in_scores(by_d_tie, middle, sd)
        _, mean, square = _in_scores(one, middle, sd)
        is_in = np.stack([np.ones(len(rows)), side, np.ones(len(rows))])
        score = np.stack([d_s, d, t])
        inner = np.stack([dd_ss, dd_s, dt_s, dd_s, dd, dt, dt_s, dt, by_tie_tie[0]]).reshape(3, 3, -1)
        found.gradient[:, rows] = weight * is_in * score
        found.response[:, rows] = weight * is_in * (np.stack([d_ss, d_s, t_s]) - mean * score) / (square - mean**2)
        found.information[:, :, rows] = weight * is_in * is_in[:, None] * (inner + weight * score * score[:, None])
    return found


def _in_scores(of_nodes: np.ndarray, middle: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of what was taken times 1, z and z^2, (3, votes): times 1, s and s^2 for the difference s = middle + sd z."""
    once, z, z_squared = of_nodes
    return once, middle * once + sd * z, middle**2 * once + 2 * middle * sd * z + sd**2 * z_squared


def _parts(is_wide: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    """Numbers of some votes; and the rule for them: nodes z (nodes,), and 1, z and z^2 times z's weight, (3, nodes)."""
    for rows, count in ((np.flatnonzero(~is_wide), _FEW_NODES), (np.flatnonzero(is_wide), _MANY_NODES)):
        nodes, density = np.polynomial.hermite_e.hermegauss(count)
        for start in range(0, len(rows), _AT_ONCE):
            yield rows[start : start + _AT_ONCE], (nodes, density * nodes ** np.arange(3)[:, None])


def _likelihood(cavities: Cavities, rows: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the votes said, up to a factor of each vote; exp(d / 2); and Z: (nodes, votes) each."""
    votes, slope = cavities.votes, cavities.slope[rows] / 2
    half = nodes[:, None] * (slope * np.sqrt(cavities.variance[rows]))
    half += slope * cavities.mean[rows] + cavities.shift[rows] / 2
    np.clip(half, -300, 300, out=half)
    up = np.exp(half)
    total = 1 / up
    total += up
    total += cavities.tie
    outcome, weight = votes.outcome[rows], votes.weight[rows]
    half *= outcome  # a tie's factor nu is one for all nodes
    if (weight == 1).all():
        likelihood = np.exp(half, out=half)
        likelihood /= total
    else:
        half -= np.log(total)
        half *= weight
        likelihood = np.exp(half, out=half)
    return likelihood, up, total
