"""Alpha and kappa: against published examples, evalica, statsmodels, arithmetic by hand, and plain resampling."""

import math

import evalica
import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.inter_rater import aggregate_raters
from statsmodels.stats.inter_rater import fleiss_kappa as statsmodels_kappa

from data.agreement import Level, fleiss_kappa, krippendorff_alpha

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


@pytest.mark.parametrize(("level", "known"), [("nominal", 0.7434), ("ordinal", 0.8154), ("interval", 0.8491)])
def test_alpha_is_evalicas(level: Level, known: float):
    theirs = evalica.alpha(pd.DataFrame(WITH_GAPS, dtype=float), distance=level).alpha
    assert krippendorff_alpha(by_unit(WITH_GAPS), level).alpha == pytest.approx(theirs, abs=1e-9)
    assert theirs == pytest.approx(known, abs=5e-5)


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


# -- Fleiss' kappa ----------------------------------------------------------------------------------------------------

# Ten things, fourteen raters, five names: how often each name was given. Kappa is 0.210 in most textbooks.
TEXTBOOK = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]


def test_kappa_of_the_textbook():
    units = [np.repeat(np.arange(5), row).tolist() for row in TEXTBOOK]
    found = fleiss_kappa(units)
    assert found.kappa == pytest.approx(0.210, abs=5e-4)
    assert found.kappa == pytest.approx(statsmodels_kappa(np.array(TEXTBOOK)), abs=1e-12)
    assert (found.raters, found.units, found.left_out, found.reason) == (14, 10, 0, "")
    assert found.low < found.kappa < found.high


def test_kappa_is_statsmodels_on_what_has_as_many_raters_and_says_what_has_not():
    rng = np.random.default_rng(0)
    even = rng.choice(["a", "b", "tie"], p=[0.6, 0.3, 0.1], size=(60, 3))
    found = fleiss_kappa([*even.tolist(), ["a", "b"], ["a", "a"], ["b"]])
    assert found.kappa == pytest.approx(statsmodels_kappa(aggregate_raters(even)[0]), abs=1e-12)
    assert (found.raters, found.units, found.left_out) == (3, 60, 2)


def test_the_interval_of_kappa_is_that_of_resampling_whole_clusters():
    rng = np.random.default_rng(1)
    units, screens = [], []
    for screen in range(60):
        is_careful = rng.random() < 0.5
        for _ in range(3):
            first = int(rng.integers(2))
            units.append([first, first if is_careful else int(rng.integers(2))])
            screens.append(screen)
    drawn = []
    for _ in range(400):
        taken = rng.integers(60, size=60)
        drawn.append(fleiss_kappa([units[3 * s + i] for s in taken for i in range(3)], samples=1).kappa)
    found = fleiss_kappa(units, clusters=screens)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.05)
    alone = fleiss_kappa(units)
    assert alone.high - alone.low < 0.85 * (found.high - found.low)


@pytest.mark.parametrize(
    ("units", "said"),
    [
        ([], "Nothing has answers of two raters yet."),
        ([["a"], ["b"]], "Nothing has answers of two raters yet."),
        ([["a", "a"], ["a", "a"]], "All answers are the same, so there is no telling agreement from chance."),
    ],
)
def test_where_kappa_is_not_defined_it_says_so(units: list[list[str]], said: str):
    found = fleiss_kappa(units)
    assert math.isnan(found.kappa)
    assert math.isnan(found.low)
    assert found.reason == said
