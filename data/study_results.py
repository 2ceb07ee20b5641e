"""What the votes of a blind study say of its two sides on each question, how sure that is, and what so many find."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, stdtrit
from scipy.stats import binomtest

from data.bootstrap import LEAST_CLUSTERS, Interval, share_interval
from data.crossed import Crossed, combined, crossed_interval
from data.records import Judgement

Verdict = Literal["better", "worse", "even", "unknown"]

AGREE = 0.65
"""How often two people prefer the same image of a pair, where the workspace's own blind votes do not tell.

A single person is at 65.3 % on the test pairs of ImageReward and at 78.1 % on those of HPD v2 (README of HPS v2)."""
_SURE, _FOUND = 0.975, 0.8
_LEAST_VOTES, _LEAST_SHARED = 100, 20
"""Votes, and pairs with two of them or more, from which on it is told how alike votes are."""
_MOST_ALIKE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What people said to one question. Shares are of votes for the first side, `model`, ties half."""

    question: str
    """The rating kind that asked it."""
    model: str
    other: str
    share: Crossed
    """With its interval over prompts and raters together."""
    over_prompts: Interval
    over_raters: Interval
    by_rater: dict[str, float]
    """Each rater's share, by their id."""
    mean_of_raters: float
    """Every rater the same, however many votes they gave."""
    sd_of_raters: float
    """Standard deviation of the raters' shares (n - 1); nan of one rater."""
    ties: float
    """Share of the votes that are ties, both bad included."""
    both_bad: float
    won: int
    """Prompts on which `model` has more votes than `other`."""
    lost: int
    even: int
    """Prompts with as many for one as for the other; the exact test leaves them out."""
    p_value: float
    """Of the exact test, two-sided: nan where no prompt was won or lost."""
    verdict: Verdict
    """`model` is better, worse, or even by the interval over prompts and raters; unknown of fewer than five prompts."""


def answers(judgements: Sequence[Judgement], *, seed: int = 0) -> list[Answer]:
    """One for each question that somebody answered, by name."""
    by_question: dict[str, list[Judgement]] = defaultdict(list)
    for each in judgements:
        by_question[each.kind].append(each)
    return [_answer(name, votes, seed) for name, votes in sorted(by_question.items())]


def _answer(question: str, votes: Sequence[Judgement], seed: int) -> Answer:
    credit = np.array([each.credit for each in votes])
    prompts, raters = np.array([each.prompt_id for each in votes]), np.array([each.rater_id for each in votes])
    by_rater = {str(name): float(credit[raters == name].mean()) for name in np.unique(raters)}
    shares = np.array([*by_rater.values()])
    share = crossed_interval(credit, prompts, raters)
    _, of_prompt = np.unique(prompts, return_inverse=True)
    sides = np.sign(np.bincount(of_prompt, weights=2 * credit - 1))  # whole numbers: a tie is exactly no vote
    won, lost = int((sides > 0).sum()), int((sides < 0).sum())
    return Answer(
        question=question,
        model=votes[0].model,
        other=votes[0].other,
        share=share,
        over_prompts=share_interval(credit, prompts, seed=seed),
        over_raters=share_interval(credit, raters, seed=seed),
        by_rater=by_rater,
        mean_of_raters=float(shares.mean()),
        sd_of_raters=float(shares.std(ddof=1)) if len(shares) > 1 else math.nan,
        ties=sum(each.outcome == "tie" for each in votes) / len(votes),
        both_bad=sum(each.both_bad for each in votes) / len(votes),
        won=won,
        lost=lost,
        even=len(sides) - won - lost,
        p_value=float(binomtest(won, won + lost).pvalue) if won + lost else math.nan,
        verdict=_verdict(share),
    )


def _verdict(share: Crossed) -> Verdict:
    if share.prompts < LEAST_CLUSTERS:
        return "unknown"
    if share.low > 0.5:
        return "better"
    return "worse" if share.high < 0.5 else "even"


# -- what so many votes can find --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """How much of the variance of votes is shared, 0 to 1, by those on one pair of images, on a prompt, by a rater."""

    pairs: float = 2 * AGREE - 1
    """Two votes on a pair that agree with probability a share 2 a - 1 of it, where neither side is better."""
    prompts: float = 0.0
    """Shared by votes on different pairs of a prompt: a part of what those of one pair share."""
    raters: float = 0.0
    variance: float = 0.25
    """Of a vote: less where many are ties."""


def alike(judgements: Sequence[Judgement]) -> Alike | None:
    """As earlier blind votes have it; None where they are too few: 100 votes, 20 pairs with two of them or more.

    Each is the mean product of what two votes are away from the mean, as a share of the variance: of two raters on one
    pair, on two pairs of one prompt, and of one rater on two pairs.
    """
    credit = np.array([each.credit for each in judgements])
    if len(credit) < _LEAST_VOTES or not credit.std():
        return None
    away = (credit - credit.mean()) / credit.std()
    pair, prompt, rater = (
        np.unique([getattr(each, name) for each in judgements], return_inverse=True)[1]
        for name in ("task_id", "prompt_id", "rater_id")
    )
    if int((np.bincount(pair) >= 2).sum()) < _LEAST_SHARED:
        return None
    cell = pair * (int(rater.max()) + 1) + rater
    pairs = _shared(away, pair, cell)
    return Alike(
        pairs=pairs,
        prompts=min(pairs, _shared(away, prompt, pair)),
        raters=_shared(away, rater, cell),
        variance=float(credit.var()),
    )


def _shared(away: np.ndarray, cluster: np.ndarray, within: np.ndarray) -> float:
    """Mean product of two votes of one cluster that are not of one smaller cluster `within` it; 0 without such."""
    products = [np.bincount(of, weights=away) ** 2 for of in (cluster, within)]
    count = [np.bincount(of).astype(float) ** 2 for of in (cluster, within)]
    found = count[0].sum() - count[1].sum()
    return float(np.clip((products[0].sum() - products[1].sum()) / found, 0.0, _MOST_ALIKE)) if found else 0.0


def detectable(votes: int, *, pairs: int, prompts: int, raters: int, shared: Alike | None = None) -> float:
    """The least difference from one half that so many votes find in 80 of 100 studies, in the share of the votes; 1
    where they find none.

    With one vote on each of 400 prompts by very many raters it is (t of 97.5 % + t of 80 %) standard errors, 1.4 /
    sqrt(400) = 0.07. Few raters make it larger, for it is seldom plain that so few are alike: taken over 4,000 draws of
    what the two variances are estimated to be (as chi-squared).

    Args:
        votes: on one question, spread evenly over `pairs` of images of `prompts`, and over `raters`.
        shared: how alike votes are; None: as people's elsewhere (`AGREE`).
    """
    if prompts < 2:
        return 1.0
    shared = shared or Alike()
    alone = max(1 - shared.pairs - shared.raters, 0.0) / votes
    by_prompt = shared.variance * (shared.prompts / prompts + (shared.pairs - shared.prompts) / pairs + alone)
    by_rater = shared.variance * (shared.raters / raters + alone)
    rng = np.random.default_rng(0)
    variance, freedom = combined(
        by_prompt * _estimates(rng, prompts),
        by_rater * _estimates(rng, raters),
        shared.variance / votes,
        prompts=prompts,
        raters=raters,
    )
    half = stdtrit(freedom, _SURE) * np.sqrt(variance)
    spread = math.sqrt(by_prompt + shared.variance * shared.raters / raters)

    def more_than_needed(share: float) -> float:
        return float(np.mean(ndtr((share - half) / spread))) - _FOUND

    return brentq(more_than_needed, 0.0, 1.0) if more_than_needed(1.0) > 0 else 1.0  # type: ignore[return-value]


def _estimates(rng: np.random.Generator, clusters: int) -> np.ndarray:
    """Of a variance of 1, by so many clusters, float (4000,)."""
    freedom = max(clusters - 1, 1)
    return rng.chisquare(freedom, 4000) / freedom
