"""What a vote says, against adaptive quadrature of the model as its definition has it, and differences of that."""

from itertools import product

import numpy as np
import pytest
from scipy.integrate import quad

from data import vote_integrals
from data.vote_integrals import Cavities, derivatives, posterior
from data.votes import Votes

CASES = [
    # mean and variance without the vote, slope, bias, nu, outcome, weight, side by side, wide
    (0.3, 1.7, 0.7, 0.4, 0.5, 1, 1.0, True, False),
    (-0.8, 0.4, 1.2, -0.3, 0.5, -1, 1.0, True, False),
    (0.5, 0.9, 0.9, 0.6, 0.5, 0, 1.0, True, False),
    (1.1, 1.2, 0.8, 0.6, 0.5, 1, 0.5, False, False),
    (1.1, 1.2, -0.8, 0.6, 0.5, 0, 2 / 3, True, False),
    (0.2, 0.6, 1.0, 0.1, 0.0, -1, 1.0, True, False),
    (-1.5, 1.9, 2.2, 0.2, 0.5, 1, 1.0, True, True),
    (0.4, 1.5, -1.8, 0.0, 0.8, 0, 1.0, True, True),
]


def cavities_of(cases: list[tuple]) -> Cavities:
    """One vote for each case, all with the nu of the first."""
    mean, variance, slope, bias, tie, outcome, weight, side, wide = map(np.array, zip(*cases, strict=True))
    number, zeros = np.arange(len(cases)), np.zeros(len(cases), int)
    votes = Votes(
        items=[("p", "a"), ("p", "b")],
        raters=[str(n) for n in number],
        first=zeros,
        second=zeros + 1,
        outcome=outcome,
        rater=number,
        is_side_by_side=side,
        weight=weight,
        both_bad=0,
    )
    return Cavities(votes, mean, variance, slope, bias * side, float(tie[0]), wide)


def expected(case: tuple, theta: np.ndarray, power: int = 0) -> float:
    """Of the vote's probability times the difference of scores to a power, without Gauss and Hermite; theta is slope,
    bias and log nu.
    """
    mean, variance, _, _, _, outcome, weight, side, _ = case
    slope, bias, log_tie = theta

    def integrand(s: float) -> float:
        d = slope * s + bias * side
        three = np.exp([d / 2, -d / 2, log_tie])
        chance = three[{1: 0, -1: 1, 0: 2}[outcome]] / three.sum()
        return float(s**power * chance**weight * np.exp(-((s - mean) ** 2) / (2 * variance)))

    reach = 12 * np.sqrt(variance)
    return quad(integrand, mean - reach, mean + reach, epsabs=1e-13, epsrel=1e-11, limit=200)[0]


@pytest.mark.parametrize("case", CASES)
def test_a_votes_integrals_are_those_of_adaptive_quadrature(case: tuple):
    theta = np.array([case[2], case[3], np.log(case[4]) if case[4] else -40.0])
    cavities = cavities_of([case])
    mean, variance = posterior(cavities)
    once, s, s_squared = (expected(case, theta, power) for power in range(3))
    assert mean[0] == pytest.approx(s / once, abs=1e-4)
    assert variance[0] == pytest.approx(s_squared / once - (s / once) ** 2, rel=1e-3)

    def log_evidence(*moves: np.ndarray) -> float:
        return float(np.log(expected(case, theta + np.sum(moves, axis=0))))

    found, h = derivatives(cavities), np.eye(3) * 1e-3
    for n in range(3):
        assert found.gradient[n, 0] == pytest.approx((log_evidence(h[n]) - log_evidence(-h[n])) / 2e-3, abs=1e-3)
        # Where it pulls the difference: the derivative of its mean by a parameter, over its variance.
        up, down = (expected(case, theta + move, 1) / expected(case, theta + move) for move in (h[n], -h[n]))
        assert found.response[n, 0] == pytest.approx((up - down) / 2e-3 / variance[0], abs=3e-3)
    for n, m in product(range(3), repeat=2):
        signs = product((1, -1), repeat=2)
        bend = sum(a * b * log_evidence(a * h[n], b * h[m]) for a, b in signs) / 4e-6
        assert found.information[n, m, 0] == pytest.approx(-bend, abs=3e-3)


def test_votes_worked_on_a_few_at_a_time_come_out_in_their_places(monkeypatch: pytest.MonkeyPatch):
    cases = [CASES[n] for n in (0, 6, 1, 7, 2, 4, 3)]
    together = derivatives(cavities_of(cases)), posterior(cavities_of(cases))
    monkeypatch.setattr(vote_integrals, "_AT_ONCE", 2)
    apart = derivatives(cavities_of(cases)), posterior(cavities_of(cases))
    assert apart[0].information == pytest.approx(together[0].information, abs=1e-12)
    assert apart[0].response == pytest.approx(together[0].response, abs=1e-12)
    assert apart[1] == (pytest.approx(together[1][0], abs=1e-12), pytest.approx(together[1][1], abs=1e-12))
    alone = [posterior(cavities_of([cases[0], case]))[0][1] for case in cases]
    assert together[1][0] == pytest.approx(alone, abs=1e-12)
