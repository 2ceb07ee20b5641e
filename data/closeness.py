"""How close a rater's second answers come to their first ones, where the same and not the same is too coarse.

`data.quality.consistency` is for every kind; these are for answers that have parts: orders, and grades.
"""

from dataclasses import replace

from data.quality import Share, by_rater
from data.store import Store


def exact_share(store: Store, round: int | None = None) -> dict[str, Share]:
    """By rater: the share of their repeats in which all of the answer is the same: every place, every grade."""
    return by_rater((each.rater_id, float(each.is_exact)) for each in store.repeats(round) if each.is_swapped)


def near_share(store: Store, round: int | None = None) -> dict[str, Share]:
    """By rater: the share of the grades of their repeats that differ by one step at most, of scales with three levels
    or more.
    """
    found = [each for each in store.repeats(round) if each.is_swapped]
    return by_rater((each.rater_id, each.near) for each in found if each.near is not None)


def order_correlation(store: Store, round: int | None = None) -> dict[str, Share]:
    """By rater: the mean of Kendall's tau-b between their two orders of the same images, in [-1, 1].

    Its standard error is twice that of the share (1 + tau) / 2, so that two equal orders are no proof either.
    """
    found = [each for each in store.repeats(round) if each.is_swapped]
    shares = by_rater((each.rater_id, (1 + each.tau) / 2) for each in found if each.tau is not None)
    return {rater_id: replace(share, value=2 * share.value - 1, se=2 * share.se) for rater_id, share in shares.items()}
