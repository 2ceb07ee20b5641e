"""How often one rater says what the majority of the others says: by hand, and by counting one by one."""

import itertools

import numpy as np
import pytest

from data.ceiling import leave_one_out, single_rater_ceiling
from data.votes import Vote, as_votes


def said(prompt: str, rater: str, outcome: int, first: str = "a", second: str = "b") -> Vote:
    return Vote(prompt, first, second, outcome, rater, True)


def test_by_hand():
    """p: three for a, one for b. Each a sees two to one for a: right; b sees three against: wrong. 3 of 4.
    q: two raters of two minds, the second shown the other way round: 0 of 2. A tie is no vote, a lone vote neither.
    r: two against one even pair: of ann, bob and cy the two who agree see an even rest, half right; the third is wrong.
    """
    votes = as_votes(
        [
            *(said("p", rater, outcome) for rater, outcome in (("ann", 1), ("bob", 1), ("cy", 1), ("dee", -1))),
            said("p", "eve", 0),
            said("q", "ann", 1),
            said("q", "bob", 1, "b", "a"),
            *(said("r", rater, outcome) for rater, outcome in (("ann", 1), ("bob", 1), ("cy", -1))),
            said("s", "ann", 1),
        ]
    )
    found = single_rater_ceiling(votes)
    assert found is not None
    assert (found.agreement.n, found.agreement.clusters, found.even, found.ties) == (9, 3, 2, 1)
    assert found.agreement.mean == pytest.approx((3 + 0 + 0.5 + 0.5) / 9)
    assert found.agreement.low < found.agreement.mean < found.agreement.high


def test_a_rater_has_one_vote_on_a_pair_however_often_they_were_asked():
    votes = as_votes(
        [*[said("p", "ann", 1)] * 2, said("p", "ann", -1), said("p", "bob", 1, "b", "a"), said("p", "cy", 0)]
    )
    found = single_rater_ceiling(votes)
    assert found is not None
    assert (found.agreement.mean, found.agreement.n) == (0, 2)


def test_one_by_one():
    rng = np.random.default_rng(0)
    rows = 400
    first = rng.integers(12, size=rows)
    second = (first + rng.integers(1, 12, size=rows)) % 12
    outcome, rater = rng.integers(-1, 2, size=rows), rng.choice(["ann", "bob", "cy", "dee"], size=rows)
    expected = []
    for pair in itertools.combinations(range(12), 2):
        given = {
            name: np.sign(
                sum(
                    outcome[n] * (1 if first[n] < second[n] else -1)
                    for n in range(rows)
                    if rater[n] == name and (min(first[n], second[n]), max(first[n], second[n])) == pair
                )
            )
            for name in set(rater)
        }
        votes = [vote for vote in given.values() if vote]
        expected += [(*pair, vote, sum(votes) - vote) for vote in votes if len(votes) > 1]
    left = leave_one_out(first, second, outcome, rater)
    direction = np.where(first < second, 1, -1)[left.row]
    low, high = np.minimum(first, second)[left.row], np.maximum(first, second)[left.row]
    ours = zip(low, high, left.vote * direction, left.others * direction, strict=True)
    assert sorted(tuple(map(int, each)) for each in ours) == sorted(tuple(map(int, each)) for each in expected)
    assert len(expected) > 100


@pytest.mark.parametrize(
    "votes",
    [[], [said("p", "ann", 1)], [said("p", "ann", 1), said("p", "bob", 0)], [said("p", "ann", 1), said("q", "bob", 1)]],
)
def test_where_no_two_raters_answered_the_same_there_is_none(votes: list[Vote]):
    assert single_rater_ceiling(as_votes(votes)) is None
