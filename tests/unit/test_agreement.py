"""Krippendorff's alpha: against the examples that its author published, arithmetic by hand, and plain resampling."""

import math

import numpy as np
import pytest

from data.agreement import Level, krippendorff_alpha

# K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011): examples A, B and C; None where nobody answered.
BINARY = ["0100000010", "1110010000"]
NOMINAL = ["aabbdcccedda", "babbbccceddd"]
WITH_GAPS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def by_unit(raters):
    return [[value for value in unit if value is not None] for unit in zip(*raters, strict=True)]


@pytest.mark.parametrize(
    ("raters", "level", "published"),
    [
        (BINARY, "nominal", 0.095),
        (NOMINAL, "nominal", 0.692),
        (WITH_GAPS, "nominal", 0.743),
        (WITH_GAPS, "ordinal", 0.815),
        (WITH_GAPS, "interval", 0.849),
    ],
)
def test_published_examples(raters, level: Level, published: float):
    found = krippendorff_alpha(by_unit(raters), level)
    assert found.alpha == pytest.approx(published, abs=0.0006)
    assert found.low < found.alpha < found.high


def test_by_hand():
    """Units ab, aa, bb: o_ab = o_ba = 1, o_aa = o_bb = 2, n_a = n_b = 3. Seen 2/6, by chance 2*3*3/(6*5) = 18/30:
    alpha = 1 - (1/3) / (3/5) = 4/9. A unit with one value changes nothing.
    """
    found = krippendorff_alpha(["ab", "aa", "bb", "a"], "nominal")
    assert found.alpha == pytest.approx(4 / 9)
    assert (found.units, found.values, found.clusters, found.reason) == (3, 6, 3, "")


def test_agreement_is_one_and_coins_are_about_zero_and_opposites_are_below():
    rng = np.random.default_rng(0)
    same = rng.integers(4, size=300).tolist()
    assert krippendorff_alpha([[each, each] for each in same], "ordinal").alpha == 1
    coins = krippendorff_alpha(rng.integers(2, size=(2000, 2)).tolist(), "nominal")
    assert coins.low < 0 < coins.high
    assert coins.high - coins.low < 0.1
    assert krippendorff_alpha([[0, 1]] * 50, "nominal").alpha == pytest.approx(-0.98)  # 1 - 1 / (50 / 99)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_intervals_are_those_of_resampling_whole_clusters(level: Level):
    """Screens of three images each: their values hang together, so that units alone would make it too narrow."""
    rng = np.random.default_rng(1)
    units, screens = [], []
    for screen in range(60):
        is_careful = rng.random() < 0.5
        for _ in range(3):
            first = int(rng.integers(1, 6))
            units.append([first, first if is_careful else int(rng.integers(1, 6))])
            screens.append(screen)
    drawn = []
    for _ in range(400):
        taken = rng.integers(60, size=60)
        drawn.append(krippendorff_alpha([units[3 * s + i] for s in taken for i in range(3)], level, samples=1).alpha)
    found = krippendorff_alpha(units, level, clusters=screens)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.05)
    alone = krippendorff_alpha(units, level)
    assert alone.high - alone.low < 0.85 * (found.high - found.low)
    assert alone.alpha == found.alpha


def test_the_same_answers_give_the_same_interval_in_any_order():
    units = by_unit(WITH_GAPS)
    one, other = (krippendorff_alpha(each, "ordinal", samples=2000) for each in (units, units[::-1]))
    assert one.alpha == pytest.approx(other.alpha)
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.05)


@pytest.mark.parametrize(
    ("units", "said"),
    [
        ([], "Nothing has answers of two raters yet."),
        ([[1], [2], [1]], "Nothing has answers of two raters yet."),
        ([[3, 3], [3, 3, 3]], "All answers are the same, so there is no telling agreement from chance."),
    ],
)
def test_where_alpha_is_not_defined_it_says_so(units: list[list[int]], said: str):
    found = krippendorff_alpha(units, "interval")
    assert math.isnan(found.alpha)
    assert math.isnan(found.low)
    assert found.reason == said


def test_one_screen_gives_no_interval():
    found = krippendorff_alpha([[1, 2], [2, 2]], "interval", clusters=["a screen"] * 2)
    assert math.isfinite(found.alpha)
    assert math.isnan(found.low)
