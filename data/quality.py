"""How raters rate: views of the store, by rater, that say who needs a look and take nothing away from anybody.

Ratings stay as they are; how far the reward model follows whom is its fit's to say.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from scipy.special import betainc

from data.aggregation import Aggregate
from data.answered import Answered
from data.bootstrap import Interval, interval
from data.records import IMPORTED, Rater
from data.store import Store

TURNED_BELOW, WEAK_BELOW = 0.0, 0.5
"""Reliability: whoever is surely below answers the other way round, or hardly follows what others answer."""
ONE_SIDED_ABOVE = 0.5
"""Side bias in log-odds: of two equal pictures the one side is taken 62 % of the time."""
CONSISTENT_ABOVE = 0.6
GOLD_ABOVE = 0.8
"""Shares that a rater should not be surely below."""
_SURE = 2.0
"""Standard errors that an estimate must be beyond its bound."""
_SURELY = 0.975
"""How probable it must be that a share is below its bound."""
_HASTY_SHARE, _HASTY_S = 1 / 3, 1.0
"""Answers faster than this share of the typical rater's median, and than so many seconds, were hardly looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of some answers, and its standard error."""

    value: float
    se: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Slopes:
    """What a fit found of a rater: P(left) = sigmoid(beta * difference of scores + side bias)."""

    reliability: float
    """beta over that of the median rater: 1 as the others, 0 a coin, below 0 the other way round. nan, as its standard
    error, where it cannot be told."""
    reliability_se: float
    side_bias: float
    """In log-odds; nan where nothing was shown side by side."""
    side_bias_se: float


def slopes_of(fitted: Aggregate) -> dict[str, Slopes]:
    """What a fit says of each rater."""
    return {
        rater_id: Slopes(
            reliability=each.reliability,
            reliability_se=each.reliability_se,
            side_bias=each.bias,
            side_bias_se=each.bias_se,
        )
        for rater_id, each in fitted.raters.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class RaterQuality:
    """All that is known of how one rater rates."""

    rater: Rater
    answers: int
    """That stand, checks included and skips not."""
    skips: int
    left: Share | None
    """Of screens on which the first and the last picture were not put equal: how often the first was better. Of pairs,
    that is the left one. None here and below where nothing was asked that tells."""
    ties: Share | None
    """Of pairs of pictures that were compared: put equal, both bad included."""
    consistency: Share | None
    gold: Share | None
    dwell_s: tuple[float, ...]
    """Of each answer, from the pictures' being shown to its being given."""
    last_at: datetime
    slopes: Slopes | None
    doubts: tuple[str, ...] = ()
    """Why somebody should have a look, in words; most have none."""

    @property
    def median_s(self) -> float:
        return statistics.median(self.dwell_s) if self.dwell_s else math.nan


def raters_quality(
    store: Store, said: Iterable[Answered], slopes: Mapping[str, Slopes], round: int | None = None
) -> list[RaterQuality]:
    """Every rater who did something in the round, or in any: those in doubt first, then by name."""
    own: dict[str, list[Answered]] = defaultdict(list)
    for each in said:
        own[each.rating.rater_id].append(each)
    repeated, gold = consistency(store, round), gold_accuracy(store, round)
    known = {rater.rater_id: rater for rater in store.raters()}
    found = [
        _quality(known[rater_id], answers, repeated.get(rater_id), gold.get(rater_id), slopes.get(rater_id))
        for rater_id, answers in own.items()
        if rater_id in known
    ]
    medians = [each.median_s for each in found if each.dwell_s]
    typical_s = statistics.median(medians) if medians else math.nan
    with_doubts = [_with_doubts(each, typical_s) for each in found]
    return sorted(with_doubts, key=lambda each: (-len(each.doubts), each.rater.name.casefold()))


def _quality(
    rater: Rater, own: Sequence[Answered], repeated: Share | None, gold: Share | None, slopes: Slopes | None
) -> RaterQuality:
    given = [each for each in own if not each.is_skip]
    sides = [side for each in given if (side := each.first_beats_last()) is not None]
    ties = [tied for each in given if (tied := each.tied_share()) is not None]
    return RaterQuality(
        rater=rater,
        answers=len(given),
        skips=len(own) - len(given),
        left=share(sides) if sides else None,
        ties=share(ties) if ties else None,
        consistency=repeated,
        gold=gold,
        dwell_s=tuple(each.rating.dwell_ms / 1000 for each in given if _is_timed(each)),
        last_at=max(each.rating.server_time for each in own),
        slopes=slopes,
    )


def _is_timed(each: Answered) -> bool:
    """Most of what is imported says nothing of how long it took."""
    return each.rating.dwell_ms > 0 or each.task.policy != IMPORTED


def _with_doubts(quality: RaterQuality, typical_s: float) -> RaterQuality:
    return replace(quality, doubts=tuple(doubts(quality, typical_s)))


def doubts(quality: RaterQuality, typical_s: float) -> Iterable[str]:
    """Why somebody should look at a rater, where that is sure; `typical_s` is the median rater's median answer."""
    slopes = quality.slopes
    if slopes is not None:
        most = slopes.reliability + _SURE * slopes.reliability_se
        if most < TURNED_BELOW:
            yield "answers the other way round than the others"
        elif most < WEAK_BELOW:
            yield "hardly follows what the others answer"
        if abs(slopes.side_bias) - _SURE * slopes.side_bias_se > ONE_SIDED_ABOVE:
            yield f"takes the {'left' if slopes.side_bias > 0 else 'right'} picture whatever it shows"
    if _is_surely_below(quality.consistency, CONSISTENT_ABOVE):
        yield "answers the same question differently the next time"
    if _is_surely_below(quality.gold, GOLD_ABOVE):
        yield "misses what is known to be worse"
    if quality.median_s < min(_HASTY_SHARE * typical_s, _HASTY_S):
        yield f"answers in {quality.median_s:.1f} s where {typical_s:.1f} s are usual"


def _is_surely_below(found: Share | None, bound: float) -> bool:
    """By the posterior that the standard error is of: of one wrong answer nobody is sure."""
    if found is None:
        return False
    right = found.value * found.n
    return float(betainc(right + 0.5, found.n - right + 0.5, bound)) > _SURELY


def consistency(store: Store, round: int | None = None) -> dict[str, Share]:
    """By rater: the share of their repeats, in another order, in which they said the same as before."""
    return by_rater((each.rater_id, each.agreement) for each in store.repeats(round) if each.is_swapped)


def repeat_consistency(store: Store, round: int | None = None, *, seed: int = 0) -> Interval:
    """The share of all repeats, in another order, in which a rater said the same as before; over raters. n is 0 where
    nobody was asked twice.
    """
    found = [each for each in store.repeats(round) if each.is_swapped]
    return interval(
        np.array([each.agreement for each in found], dtype=float),
        np.array([each.rater_id for each in found], dtype=str),
        seed=seed,
    )


def gold_accuracy(store: Store, round: int | None = None) -> dict[str, Share]:
    """By rater: the share of gold tasks that they answered right. A tie is wrong; `both bad` and a skip are no
    answers.
    """
    return by_rater((each.rater_id, each.correct) for each in store.gold_answers(round))


def share(values: Iterable[float]) -> Share:
    """The mean of numbers in [0, 1].

    Its standard error is the posterior's from Jeffreys's prior, Beta(k + 1/2, n - k + 1/2): of three answers that are
    all right nobody is sure, and sqrt(p (1 - p) / n) would be 0.
    """
    given = [*values]
    n, k = len(given), math.fsum(given)
    alpha, beta = k + 0.5, n - k + 0.5
    se = math.sqrt(alpha * beta / ((n + 1) ** 2 * (n + 2)))
    return Share(value=k / n, se=se, n=n)


def by_rater(found: Iterable[tuple[str, float]]) -> dict[str, Share]:
    """The share of the numbers of each rater."""
    values: dict[str, list[float]] = defaultdict(list)
    for rater_id, value in found:
        values[rater_id].append(value)
    return {rater_id: share(given) for rater_id, given in values.items()}
