"""How well people predict each other: what a model of them can be measured against."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.bootstrap import Interval, interval
from data.votes import Votes


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveOneOut:
    """One vote of one rater on each pair of images, where at least two raters have one. Arrays are (votes,)."""

    row: np.ndarray
    """A row that is about this pair."""
    vote: np.ndarray
    """1 or -1: the side of that row that the rater took more often."""
    others: np.ndarray
    """The sum of the other raters' votes: above 0 where their majority takes the first of the row, 0 without one."""


def leave_one_out(
    first: np.ndarray, second: np.ndarray, outcome: np.ndarray, rater: np.ndarray | Sequence[str]
) -> LeaveOneOut:
    """Each vote, and what the others said of the same two images.

    `first` and `second` are numbers of images, `outcome` is 1, -1 or 0; all are (rows,). A rater who took neither side
    of a pair more often has no vote on it.
    """
    low, high = np.minimum(first, second), np.maximum(first, second)
    flip = np.where(first == low, 1, -1)
    _, row, pair = np.unique(low * (high.max(initial=0) + 1) + high, return_index=True, return_inverse=True)
    names, who = np.unique(rater, return_inverse=True)
    cell, place = np.unique(pair * max(len(names), 1) + who, return_inverse=True)
    vote = np.sign(np.bincount(place, weights=outcome * flip, minlength=len(cell))).astype(int)
    of_pair = cell[vote != 0] // max(len(names), 1)
    vote = vote[vote != 0]
    total = np.bincount(of_pair, weights=vote, minlength=len(row)).astype(int)
    is_shared = np.bincount(of_pair, minlength=len(row))[of_pair] > 1
    of_pair, vote = of_pair[is_shared], vote[is_shared]
    direction = flip[row[of_pair]]
    return LeaveOneOut(row=row[of_pair], vote=vote * direction, others=(total[of_pair] - vote) * direction)


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleRater:
    """How often one rater says what the majority of the others says."""

    agreement: Interval
    """Over prompts; `n` is the number of votes. Where the others are even, a vote is half right."""
    even: int
    """Votes on which the others were even."""
    ties: int
    """Answers that put two images equal: those are no votes."""


def single_rater_ceiling(votes: Votes, *, seed: int = 0) -> SingleRater | None:
    """What the majority of the others predicts of a rater's votes; None where no two raters have one on the same pair.

    Of two raters it is plainly how often they agree. It is the accuracy to compare a reward model's with, on pairs
    like these; one that learned from many answers can be above it.
    """
    left = leave_one_out(votes.first, votes.second, votes.outcome, votes.rater)
    if not len(left.row):
        return None
    right = 0.5 + 0.5 * np.sign(left.others) * left.vote
    return SingleRater(
        agreement=interval(right, votes.prompt[left.row], seed=seed),
        even=int(np.count_nonzero(left.others == 0)),
        ties=int(np.count_nonzero(votes.outcome == 0)),
    )
