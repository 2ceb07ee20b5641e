"""How far a score orders pictures as people did, whoever gave it."""

import numpy as np
from jaxtyping import Float, Int

from data.bootstrap import Interval, share_interval


def is_right(
    difference: Float[np.ndarray, " pairs"], outcome: Int[np.ndarray, " pairs"]
) -> Float[np.ndarray, " pairs"]:
    """1 where the sign of first score minus second agrees with the outcome (1: the first is better, -1: the second),
    1/2 where the scores are equal, or people were even.
    """
    return 0.5 + 0.5 * np.sign(difference) * outcome


def share_right(
    difference: Float[np.ndarray, " pairs"],
    outcome: Int[np.ndarray, " pairs"],
    clusters: np.ndarray,
    *,
    weights: Float[np.ndarray, " pairs"] | None = None,
    seed: int = 0,
) -> Interval | None:
    """The share of the decided pairs that a score orders as people did, with its interval over clusters (prompts); None
    where nobody decided. Ties say nothing of an order, and equal scores are half right.
    """
    decided = outcome != 0
    if not decided.any():
        return None
    right = is_right(difference[decided], outcome[decided])
    return share_interval(right, clusters[decided], weights=None if weights is None else weights[decided], seed=seed)
