"""What a study's votes say: by hand, by scipy and statsmodels-free arithmetic, and over many simulated studies."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.study import a_study, difference_of, judged
from data.crossed import crossed_interval
from data.records import Judgement
from data.study_results import Alike, alike, answers, detectable


def votes(*said: tuple[str, str, str], kind: str = "alignment") -> list[Judgement]:
    """Prompt, rater and outcome of each."""
    return [
        Judgement(
            rating_id=str(number),
            task_id=prompt,
            round=0,
            study="s",
            kind=kind,
            prompt_id=prompt,
            rater_id=rater,
            model="B",
            other="A",
            outcome=outcome,  # pyright: ignore[reportArgumentType]
            both_bad=False,
            left="a",
        )
        for number, (prompt, rater, outcome) in enumerate(said)
    ]


def test_by_hand():
    """Ann: 1, 1/2, 1 of three; Bob: 0, 1. The prompt p is even, q and s are won."""
    said = votes(
        ("p", "ann", "a"), ("q", "ann", "tie"), ("s", "ann", "a"), ("p", "bob", "b"), ("q", "bob", "a"), kind="quality"
    )
    other = votes(("p", "ann", "b"))
    alignment, quality = answers([*said, *other])
    assert (quality.question, quality.model, quality.other) == ("quality", "B", "A")
    assert quality.share.mean == quality.over_prompts.mean == 3.5 / 5
    assert quality.by_rater == {"ann": 2.5 / 3, "bob": 1 / 2}
    assert quality.mean_of_raters == pytest.approx((2.5 / 3 + 1 / 2) / 2)
    assert quality.sd_of_raters == pytest.approx(stats.tstd([2.5 / 3, 1 / 2]))
    assert (quality.ties, quality.both_bad) == (1 / 5, 0.0)
    assert (quality.won, quality.lost, quality.even) == (2, 0, 1)
    assert quality.p_value == 0.5  # two of two heads or two of two tails
    assert quality.verdict == "unknown"  # three prompts
    assert (alignment.question, alignment.share.n, alignment.share.raters) == ("alignment", 1, 1)
    assert math.isnan(alignment.share.low)
    assert math.isnan(alignment.sd_of_raters)
    assert answers([]) == []


def test_the_exact_test_is_of_prompts_and_not_of_votes():
    """Three raters on each of ten prompts say the same: 8 won, 2 lost. Two-sided (45 + 10 + 1) * 2 / 2^10 by hand; of
    30 votes it would be the binomial's 24 of 30.
    """
    said = votes(*((f"p{n}", rater, "b" if n < 2 else "a") for n in range(10) for rater in ("ann", "bob", "cy")))
    (found,) = answers(said)
    assert (found.won, found.lost, found.even) == (8, 2, 0)
    assert found.p_value == pytest.approx(112 / 1024)
    assert stats.binomtest(24, 30).pvalue < 0.01


def test_ties_decide_nothing_in_the_exact_test():
    (found,) = answers(votes(*((f"p{n}", "ann", "tie") for n in range(9))))
    assert (found.won, found.lost, found.even) == (0, 0, 9)
    assert math.isnan(found.p_value)
    assert (found.share.low < 0.5 < found.share.high, found.verdict) == (True, "even")


@pytest.mark.parametrize(("wins", "verdict"), [(30, "better"), (0, "worse"), (15, "even")])
def test_the_verdict_is_that_of_the_interval(wins: int, verdict: str):
    said = votes(*((f"p{n}", f"r{n % 4}", "a" if n < wins else "b") for n in range(30)))
    if wins in (0, 30):  # with one of the other kind, that there is a variance
        said[7] = votes(("p7", "r3", "b" if wins else "a"))[0]
    (found,) = answers(said)
    assert found.verdict == verdict
    assert (found.share.low > 0.5, found.share.high < 0.5) == (verdict == "better", verdict == "worse")


# -- the interval over prompts and raters -----------------------------------------------------------------------------


def test_with_every_prompt_rated_by_everybody_it_is_the_analysis_of_variance():
    """A balanced table: the variance over prompts is MS(prompts) / n, over raters MS(raters) / n, by scipy's F."""
    rng = np.random.default_rng(3)
    table = 0.5 + (rng.normal(size=(60, 1)) + rng.normal(size=(1, 6)) + 0.5 * rng.normal(size=(60, 6))) / 6
    prompts, raters = (grid.ravel() for grid in np.meshgrid(np.arange(60), np.arange(6), indexing="ij"))
    found = crossed_interval(table.ravel(), prompts, raters)
    of_prompts, of_raters = (table.mean(axis).var(ddof=1) / table.shape[1 - axis] for axis in (1, 0))
    together = table.ravel().var() / 360 * 360 / 359  # every vote is a cluster of its own
    variance = of_prompts + of_raters - together
    freedom = variance**2 / (of_prompts**2 / 59 + of_raters**2 / 5)
    assert variance > max(of_prompts, of_raters)
    assert found.se == pytest.approx(math.sqrt(variance))
    assert found.high == pytest.approx(table.mean() + stats.t.ppf(0.975, freedom) * math.sqrt(variance))
    assert (found.n, found.prompts, found.raters) == (360, 60, 6)


def test_where_raters_do_not_differ_it_is_that_over_prompts():
    """One vote on each prompt, every rater with the same share: the standard error of independent votes, no more."""
    values = np.tile([1.0, 0.0], 20)
    found = crossed_interval(values, np.arange(40), np.repeat(np.arange(4), 10))
    assert found.se == pytest.approx(values.std(ddof=1) / math.sqrt(40))
    assert found.high - 0.5 == pytest.approx(stats.t.ppf(0.975, 39) * found.se)


def test_votes_that_are_all_alike_are_no_certainty():
    """Five prompts by two raters: of a kind of prompt none was seen, with probability 2.5 % at (1 - u)^5 = 0.025."""
    prompts, raters = np.repeat(np.arange(5), 2), np.tile(np.arange(2), 5)
    seen = 0.025 ** (1 / 5)
    ties, wins = (crossed_interval(np.full(10, value), prompts, raters) for value in (0.5, 1.0))
    assert (ties.low, ties.high) == pytest.approx((0.5 * seen, 1 - 0.5 * seen))
    assert (wins.low, wins.high) == pytest.approx((seen, 1.0))
    assert wins.low == pytest.approx(stats.binomtest(5, 5).proportion_ci(method="exact").low)


def test_one_rater_leaves_the_interval_over_prompts_and_one_prompt_none():
    values, names = np.array([1.0, 0.0, 1.0]), np.array(["p", "q", "s"])
    found = crossed_interval(values, names, np.array(["ann"] * 3))
    low, high = stats.t.interval(0.95, 2, loc=2 / 3, scale=stats.sem(values))
    assert (found.low, found.high) == (0.0, 1.0)  # a share reaches no further
    assert found.se * (stats.t.ppf(0.975, 2) * 2) == pytest.approx(high - low)
    assert math.isnan(crossed_interval(values, np.array(["p"] * 3), names).high)
    assert math.isnan(crossed_interval(np.empty(0), np.empty(0), np.empty(0)).mean)


# -- over many studies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        {"votes": 120, "per_pair": 3, "raters": 5, "pairs_per_prompt": 1},
        {"votes": 200, "per_pair": 2, "raters": 8, "pairs_per_prompt": 2},
        {"votes": 120, "per_pair": 3, "raters": 6, "pairs_per_prompt": 1, "raters_differ": 0.3},
    ],
)
def test_a_study_of_a_model_against_itself_comes_out_even(shape: dict[str, Any]):
    """In 95 of 100 at least, but for the three standard errors of so few repetitions; and the exact test is exact."""
    repetitions = 300
    found = judged(np.random.default_rng(1), repetitions, **shape)
    least = 0.95 - 3 * math.sqrt(0.95 * 0.05 / repetitions)
    assert np.mean([each.verdict == "even" for each in found]) > least
    if not shape.get("raters_differ"):
        assert np.mean([not each.p_value <= 0.05 for each in found]) > least


@pytest.mark.long
@pytest.mark.parametrize("raters", [3, 8])
def test_the_difference_that_is_told_in_advance_is_found_in_80_of_100(raters: int):
    """Of 200, within 4 standard errors (0.113)."""
    shape: dict[str, Any] = {"votes": 200, "per_pair": 2, "raters": raters, "pairs_per_prompt": 1}
    known = alike(a_study(np.random.default_rng(0), **(shape | {"votes": 20_000})))
    assert known is not None
    least = detectable(200, pairs=100, prompts=100, raters=raters, shared=known)
    difference = difference_of(0.5 + least, np.random.default_rng(0), **shape)
    found = judged(np.random.default_rng(2), 200, difference=difference, **shape)
    assert 0.687 < np.mean([each.verdict == "better" for each in found]) < 0.913


def test_400_votes_find_7_points_and_few_raters_and_what_votes_share_take_some_away():
    """By t tables: 1.966 + 0.843 with 399 degrees of freedom, 1.984 + 0.845 with 99."""
    one_each = detectable(400, pairs=400, prompts=400, raters=1)
    assert one_each == pytest.approx((1.966 + 0.843) * 0.5 / 20, rel=0.01)
    four_each = detectable(400, pairs=100, prompts=100, raters=1)
    assert four_each == pytest.approx((1.984 + 0.845) * math.sqrt(0.25 * (0.3 / 100 + 0.7 / 400)), rel=0.01)
    many, few = (detectable(400, pairs=400, prompts=400, raters=raters) for raters in (400, 4))
    assert one_each < many < 1.08 * one_each
    assert 1.1 * one_each < few < 1.6 * one_each
    two_pairs_alike = detectable(400, pairs=100, prompts=25, raters=1, shared=Alike(pairs=0.3, prompts=0.1))
    assert two_pairs_alike > 1.1 * four_each
    differing = detectable(400, pairs=400, prompts=400, raters=8, shared=Alike(pairs=0.3, raters=0.05))
    assert differing > 1.5 * many
    ties = detectable(400, pairs=400, prompts=400, raters=1, shared=Alike(variance=0.25 * 0.81))
    assert ties == pytest.approx(0.9 * one_each)
    assert detectable(4, pairs=2, prompts=2, raters=2) == detectable(9, pairs=9, prompts=1, raters=1) == 1.0


def test_how_alike_votes_are_is_found_again():
    """Votes of a known make: +1 or -1 of the pair with probability 0.8, so that two on a pair share 0.36."""
    rng = np.random.default_rng(0)
    said = []
    for pair in range(600):
        sign = rng.random() < 0.5
        for rater in rng.permutation(8)[:3]:
            said.append((f"p{pair}", f"r{rater}", "a" if (rng.random() < 0.8) == sign else "b"))
    found = alike(votes(*said))
    assert found is not None
    assert found.pairs == pytest.approx(0.36, abs=0.06)
    assert found.prompts == 0.0  # one pair of each prompt
    assert found.raters < 0.01
    assert found.variance == pytest.approx(0.25, abs=0.005)
    assert alike(votes(*said[:90])) is None
    assert alike(votes(*((f"p{n}", "ann", "ab"[n % 2]) for n in range(200)))) is None  # no pair was voted on twice
