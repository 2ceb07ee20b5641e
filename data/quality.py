"""How far a rater can be relied on, by their own answers to repeats and gold: views of the store that weigh nobody.

Nothing is taken away from anybody here: ratings stay, and who follows whom how far is the reward fit's to say.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from data.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of some answers, and its standard error."""

    value: float
    se: float
    n: int


def consistency(store: Store, round: int | None = None) -> dict[str, Share]:
    """By rater: the share of their repeats, in another order, in which they said the same as before."""
    return by_rater((each.rater_id, each.agreement) for each in store.repeats(round) if each.is_swapped)


def reversals(store: Store, round: int | None = None) -> dict[str, Share]:
    """By rater: the share of repeats in another order in which they preferred first one image, then the other."""
    found = [each for each in store.repeats(round) if each.is_swapped]
    return by_rater((each.rater_id, each.reversal) for each in found if each.reversal is not None)


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
