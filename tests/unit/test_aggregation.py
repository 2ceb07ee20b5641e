"""Scores, slopes, sides and ties: against exact integrals, choix, evalica, planted values; whether intervals cover."""

from dataclasses import dataclass, replace

import choix
import evalica
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata

from data import aggregation
from data.aggregation import BIAS_SD, MOST_TOGETHER, SLOPE_SD, Aggregate, aggregate
from data.votes import Vote, Votes, as_votes

EIGHT = [1.0] * 6 + [0.0, -1.0]
"""Slopes of raters of whom one answers at random and one the other way round."""


@dataclass(frozen=True)
class World:
    """What simulated raters said, and the truth."""

    votes: Votes
    score: np.ndarray
    beta: np.ndarray
    bias: np.ndarray


def a_world(
    rng: np.random.Generator,
    pairs: np.ndarray,
    beta: np.ndarray | list[float],
    *,
    raters_of_each: int = 1,
    bias: np.ndarray | list[float] | None = None,
    tie: float = 0.0,
    images_of_a_prompt: int = 1_000_000,
) -> World:
    """Pairs of images, int (pairs, 2), each answered by some raters, by the model that is fitted."""
    slope, side = np.array(beta), np.zeros(len(beta)) if bias is None else np.array(bias)
    score = rng.normal(size=pairs.max() + 1)
    found = []
    for one, other in pairs.tolist():
        for rater in rng.permutation(len(slope))[:raters_of_each].tolist():
            left, right = (one, other) if rng.random() < 0.5 else (other, one)
            half = (slope[rater] * (score[left] - score[right]) + side[rater]) / 2
            chances = np.array([np.exp(half), np.exp(-half), tie])
            outcome = int(rng.choice([1, -1, 0], p=chances / chances.sum()))
            prompt = f"prompt {left // images_of_a_prompt:06d}"
            found.append(Vote(prompt, f"{left:06d}", f"{right:06d}", outcome, f"rater {rater:03d}", True))
    return World(as_votes(found), score, slope, side)


def among(rng: np.random.Generator, images: int, count: int) -> np.ndarray:
    """So many pairs among some images."""
    return np.array([rng.choice(images, 2, replace=False) for _ in range(count)])


def scores_of(found: Aggregate, world: World) -> tuple[np.ndarray, np.ndarray]:
    """Fitted and true scores of the images that were compared."""
    return found.score, world.score[[int(image) for _, image in found.items]]


def rank_correlation(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(found), rankdata(truth))[0, 1])


# -- against exact integrals -------------------------------------------------------------------------------------------


def test_slopes_sides_and_ties_are_those_of_exact_integrals_where_each_pair_stands_alone():
    """With two images to a part, a part's evidence is an integral over one difference, N(0, 2)."""
    rng = np.random.default_rng(0)
    world = a_world(
        rng, np.arange(600).reshape(-1, 2), [1.3, 0.9, -0.7], raters_of_each=3, bias=[0.5, 0.0, 0.0], tie=0.5
    )
    votes = world.votes
    grid = np.linspace(-8, 8, 161)
    density = np.exp(-(grid**2) / 4) / np.exp(-(grid**2) / 4).sum()
    sign = np.where(votes.first < votes.second, 1, -1)
    pair = np.minimum(votes.first, votes.second) // 2

    def loss(theta: np.ndarray) -> float:
        beta, bias, log_tie = theta[:3], theta[3:6], theta[6]
        d = beta[votes.rater, None] * sign[:, None] * grid + bias[votes.rater, None]
        total = np.logaddexp(np.logaddexp(d / 2, -d / 2), log_tie)
        said = votes.outcome[:, None] * d / 2 + (votes.outcome[:, None] == 0) * log_tie - total
        evidence = np.zeros((300, len(grid)))
        np.add.at(evidence, pair, said)
        prior = ((beta - 1) ** 2).sum() / SLOPE_SD**2 + (bias**2).sum() / BIAS_SD**2
        return float(prior / 2 - np.log(np.exp(evidence) @ density).sum())

    exact = minimize(loss, [1, 1, 1, 0, 0, 0, 0], method="BFGS", options={"gtol": 1e-4})
    found = aggregate(votes)
    raters = [found.raters[name] for name in votes.raters]
    ours = np.array([*(each.beta for each in raters), *(each.bias for each in raters), np.log(found.tie)])
    steps = np.eye(7) * 0.02
    bent = [
        (loss(exact.x + a + b) - loss(exact.x + a - b) - loss(exact.x - a + b) + loss(exact.x - a - b)) / (4 * 0.02**2)
        for a in steps
        for b in steps
    ]
    errors = np.sqrt(np.diag(np.linalg.inv(np.reshape(bent, (7, 7)))))
    told = [*(each.beta_se for each in raters), *(each.bias_se for each in raters), found.tie_se / found.tie]
    assert np.abs(ours - exact.x).max() < 0.03
    assert np.abs((ours - exact.x) / errors).max() < 0.15
    assert np.max(np.abs(told / errors - 1)) < 0.12


def test_the_slope_of_whoever_shares_no_image_with_others_stays_what_is_thought_of_anybody():
    """One answer to each pair: it is as probable under any slope, which a maximum over the scores would not say."""
    found = aggregate(
        as_votes(
            [
                Vote("p", f"{rater}{number:03d}a", f"{rater}{number:03d}b", (-1) ** number, rater, True)
                for rater in ("ann", "bob")
                for number in range(300)
            ]
        )
    )
    for rater in found.raters.values():
        assert rater.beta == pytest.approx(1, abs=0.02)
        assert rater.beta_se == pytest.approx(SLOPE_SD, rel=0.1)


# -- against libraries -------------------------------------------------------------------------------------------------


def test_scores_of_one_rater_are_choix_posterior():
    """Slope 1, no sides, no ties: Bradley-Terry with a prior, by expectation propagation as choix does it."""
    rng = np.random.default_rng(1)
    world = a_world(rng, among(rng, 12, 80), [1.0])
    votes = replace(world.votes, is_side_by_side=np.zeros(80, bool))
    won = np.where(votes.outcome > 0, [votes.first, votes.second], [votes.second, votes.first]).T
    mean, covariance = choix.ep_pairwise(12, [(int(a), int(b)) for a, b in won], 1.0)
    found = aggregate(votes)
    assert found.score == pytest.approx(mean, abs=0.01)
    assert found.score_se == pytest.approx(np.sqrt(np.diag(covariance)), rel=0.01)


def test_with_many_answers_scores_and_ties_are_those_of_evalica():
    """Newman's maximum likelihood; evalica's v is half of nu."""
    rng = np.random.default_rng(2)
    world = a_world(rng, among(rng, 8, 6000), [1.0], tie=0.8)
    votes = replace(world.votes, is_side_by_side=np.zeros(6000, bool))
    winner = [{1: evalica.Winner.X, -1: evalica.Winner.Y, 0: evalica.Winner.Draw}[each] for each in votes.outcome]
    theirs = evalica.newman(votes.first.tolist(), votes.second.tolist(), winner, tolerance=1e-9, limit=10_000)
    log_scores = np.log(theirs.scores.sort_index().to_numpy())
    found = aggregate(votes)
    assert found.score - found.score.mean() == pytest.approx(log_scores - log_scores.mean(), abs=0.03)
    assert found.tie == pytest.approx(2 * theirs.v, rel=0.01)
    assert abs(found.tie - 0.8) < 3 * found.tie_se


# -- planted values ----------------------------------------------------------------------------------------------------


def test_planted_raters_are_found_and_images_come_out_in_order():
    rng = np.random.default_rng(3)
    world = a_world(rng, among(rng, 30, 4000), EIGHT, bias=[0.8, *[0.0] * 7], tie=0.4)
    found = aggregate(world.votes)
    raters = [found.raters[name] for name in world.votes.raters]
    for rater, beta, bias in zip(raters, world.beta, world.bias, strict=True):
        assert abs(rater.beta - beta) < 2.5 * rater.beta_se
        assert abs(rater.reliability - beta) < 0.25
        assert abs(rater.bias - bias) < 3.5 * rater.bias_se
        assert 0.02 < rater.beta_se < 0.2
    assert abs(raters[6].beta) < 3 * raters[6].beta_se
    assert raters[7].beta < -5 * raters[7].beta_se
    assert rank_correlation(*scores_of(found, world)) > 0.97
    assert found.notes == ()


def test_following_raters_beats_taking_all_alike_where_answers_are_few():
    """Plain Bradley-Terry by choix on 400 answers, of which one in eight is a coin's and one turned round."""
    ours, plain = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        world = a_world(rng, among(rng, 30, 400), EIGHT)
        votes = world.votes
        won = np.where(votes.outcome > 0, [votes.first, votes.second], [votes.second, votes.first]).T
        found, truth = scores_of(aggregate(votes), world)
        ours.append(rank_correlation(found, truth))
        theirs = choix.ilsr_pairwise(len(votes.items), [(int(a), int(b)) for a, b in won], alpha=0.01)
        plain.append(rank_correlation(theirs, truth))
    assert np.mean(ours) > np.mean(plain) + 0.02
    assert np.mean(ours) > 0.85


def test_a_coin_and_a_turned_rater_are_found_where_each_pair_has_two_answers_alone():
    """As the tasks of a round are: pairs of their own images, two raters each. Scores and slopes that are maximised
    together run away here, for two answers that agree explain each other.
    """
    rng = np.random.default_rng(4)
    beta = [1.5] * 8 + [0.0, -1.5]
    world = a_world(rng, np.arange(5000).reshape(-1, 2), beta, raters_of_each=2)
    found = aggregate(world.votes)
    raters = [found.raters[name] for name in world.votes.raters]
    away = [(each.beta - truth) / each.beta_se for each, truth in zip(raters, beta, strict=True)]
    assert np.abs(away).max() < 3.5
    assert abs(raters[8].beta) < 0.4
    assert raters[9].beta < -0.7
    assert all(0.05 < each.reliability_se < each.beta_se < 0.5 for each in raters)

    def maximum_of_all_together() -> float:
        """The coin's slope when scores are maximised instead of integrated out."""
        votes, images = world.votes, len(world.votes.items)

        def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
            s, b = np.split(theta, [images])
            apart = s[votes.first] - s[votes.second]
            d = b[votes.rater] * apart
            pull = -votes.outcome * expit(-votes.outcome * d)
            by_score = pull * b[votes.rater]
            by_image = np.bincount(votes.first, by_score, images) - np.bincount(votes.second, by_score, images) + s
            by_beta = np.bincount(votes.rater, pull * apart, len(b)) + (b - 1) / SLOPE_SD**2
            value = np.logaddexp(0, -votes.outcome * d).sum() + s @ s / 2 + ((b - 1) ** 2).sum() / 2 / SLOPE_SD**2
            return float(value), np.concatenate([by_image, by_beta])

        start = np.concatenate([np.zeros(images), np.ones(10)])
        return float(minimize(loss, start, jac=True, method="L-BFGS-B").x[images + 8])

    assert abs(maximum_of_all_together()) > 4 * abs(raters[8].beta) + 0.5


@pytest.mark.long
@pytest.mark.parametrize("raters_of_each", [1, 3])
def test_intervals_cover(raters_of_each: int):
    """Prompts of five images, all ten pairs; the truth is drawn from the priors. 95 % of the intervals hold it."""
    pairs = np.array([(5 * p + i, 5 * p + j) for p in range(12) for i in range(5) for j in range(i)])
    away: dict[str, list[float]] = {"score": [], "beta": [], "bias": [], "tie": []}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        beta, bias = rng.normal(1, SLOPE_SD, 6), rng.normal(0, BIAS_SD, 6)
        world = a_world(rng, pairs, beta, raters_of_each=raters_of_each, bias=bias, tie=0.5, images_of_a_prompt=5)
        found = aggregate(world.votes)
        score, truth = scores_of(found, world)
        away["score"] += ((score - truth) / found.score_se).tolist()
        raters = [found.raters[name] for name in world.votes.raters]
        away["beta"] += [(each.beta - b) / each.beta_se for each, b in zip(raters, beta, strict=True)]
        away["bias"] += [(each.bias - b) / each.bias_se for each, b in zip(raters, bias, strict=True)]
        away["tie"].append(float(np.log(found.tie / 0.5) / (found.tie_se / found.tie)))
    covered = {name: float(np.mean(np.abs(each) < 1.96)) for name, each in away.items()}
    assert 0.93 < covered["score"] < 0.97
    assert 0.91 < covered["beta"] < 0.985
    assert 0.91 < covered["bias"] < 0.985
    assert covered["tie"] > 0.85


def test_pairs_that_a_ranking_implies_are_not_surer_than_they_should_be():
    """Orders of four by Plackett and Luce, each as six pairs of weight one half."""
    away, rho = [], []
    for seed in range(15):
        rng = np.random.default_rng(seed)
        score = rng.normal(size=24)
        found = []
        for _ in range(200):
            shown = 8 * rng.integers(3) + rng.choice(8, 4, replace=False)
            place = np.argsort(np.argsort(-(score[shown] + rng.gumbel(size=4))))
            rater = f"r{rng.integers(4)}"
            found += [
                Vote(f"p{shown[0] // 8}", f"{a:02d}", f"{b:02d}", 1 if i < j else -1, rater, weight=0.5)
                for a, i in zip(shown.tolist(), place, strict=True)
                for b, j in zip(shown.tolist(), place, strict=True)
                if a < b
            ]
        fitted = aggregate(as_votes(found))
        truth = score[[int(image) for _, image in fitted.items]]
        away += ((fitted.score - truth) / fitted.score_se).tolist()
        rho.append(rank_correlation(fitted.score, truth))
    assert np.mean(np.abs(away) < 1.96) > 0.93
    assert np.mean(rho) > 0.85


# -- what must hold whatever was said ----------------------------------------------------------------------------------


def test_the_mirror_image_of_all_answers_turns_the_sides_and_nothing_else():
    rng = np.random.default_rng(5)
    votes = a_world(rng, among(rng, 10, 200), [1.0, 0.5, -0.5], bias=[0.5, 0.0, -1.0], tie=0.3).votes
    one, other = (
        aggregate(each)
        for each in (votes, replace(votes, first=votes.second, second=votes.first, outcome=-votes.outcome))
    )
    assert one.score == pytest.approx(other.score, abs=1e-3)
    assert one.score_se == pytest.approx(other.score_se, abs=1e-3)
    for name in votes.raters:
        assert one.raters[name].beta == pytest.approx(other.raters[name].beta, abs=1e-3)
        assert one.raters[name].bias == pytest.approx(-other.raters[name].bias, abs=1e-3)


def test_a_weight_of_two_is_saying_it_twice_by_halves():
    rng = np.random.default_rng(6)
    votes = a_world(rng, among(rng, 10, 200), [1.0, 0.3], tie=0.3).votes
    twice = Votes(
        items=votes.items,
        raters=votes.raters,
        first=np.tile(votes.first, 2),
        second=np.tile(votes.second, 2),
        outcome=np.tile(votes.outcome, 2),
        rater=np.tile(votes.rater, 2),
        is_side_by_side=np.tile(votes.is_side_by_side, 2),
        weight=np.tile(votes.weight / 2, 2),
        both_bad=0,
    )
    once, halves = aggregate(votes), aggregate(twice)
    assert once.score == pytest.approx(halves.score, abs=0.03)
    assert once.score_se == pytest.approx(halves.score_se, abs=0.03)


def test_reliability_is_against_the_median_rater_and_surer_than_the_slope():
    """Images twice as far apart make all slopes twice as large, and say nothing of one rater against another."""
    rng = np.random.default_rng(7)
    found = aggregate(a_world(rng, among(rng, 12, 2000), [2.0, 2.0, 1.0]).votes)
    raters = [*found.raters.values()]
    assert np.median([each.reliability for each in raters]) == 1
    for each in raters:
        assert each.reliability == pytest.approx(each.beta / np.median([other.beta for other in raters]))
        assert each.reliability_se < 0.7 * each.beta_se
    assert raters[2].reliability == pytest.approx(0.5, abs=3 * raters[2].reliability_se)


def test_the_fit_comes_to_rest_soon_where_images_have_one_answer_each(monkeypatch: pytest.MonkeyPatch):
    """Nearly nothing is known of how large all slopes are, so that steps of one rater at a time creep there."""
    rng = np.random.default_rng(9)
    pairs = np.arange(4000).reshape(-1, 2)
    votes = a_world(rng, pairs, [1.2] * 8 + [0.0, -1.0], tie=0.4, images_of_a_prompt=2).votes
    monkeypatch.setattr(aggregation, "_MOST_SWEEPS", 20)
    soon = aggregate(votes)
    monkeypatch.setattr(aggregation, "_MOST_SWEEPS", 1000)
    monkeypatch.setattr(aggregation, "_SETTLED", 1e-6)
    late = aggregate(votes)
    assert soon.notes == late.notes == ()
    for name, one in late.raters.items():
        assert soon.raters[name].beta == pytest.approx(one.beta, abs=0.005)


def test_of_two_who_always_disagree_nobody_can_say_who_is_turned_round():
    said = [(str(n), rater, outcome) for n in range(60) for rater, outcome in (("ann", 1), ("bob", -1))]
    votes = [Vote(prompt, "a", "b", outcome, rater) for prompt, rater, outcome in said]
    found = aggregate(as_votes(votes))
    assert all(np.isnan(each.reliability) and np.isnan(each.reliability_se) for each in found.raters.values())
    assert "do not agree with each other" in found.notes[0]


def test_very_many_raters_come_out_as_few_do(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(8)
    votes = a_world(rng, np.arange(800).reshape(-1, 2), [1.0] * 9 + [-1.0], raters_of_each=3, tie=0.2).votes
    few = aggregate(votes)
    monkeypatch.setattr(aggregation, "_MOST_RATERS", 5)
    many = aggregate(votes)
    for name, one in few.raters.items():
        assert many.raters[name].beta == pytest.approx(one.beta, abs=0.02)
        assert many.raters[name].reliability_se == pytest.approx(one.reliability_se, rel=0.3)
    assert many.score == pytest.approx(few.score, abs=0.02)


@pytest.mark.parametrize(
    ("votes", "said"),
    [
        ([], "Nothing has been compared yet."),
        ([Vote("p", "a", "b", 0, "ann", True)] * 5, "No answer prefers an image to another"),
    ],
)
def test_where_there_is_nothing_to_fit_it_says_so(votes: list[Vote], said: str):
    found = aggregate(as_votes(votes))
    assert found.notes[0].startswith(said)
    assert (len(found.items), len(found.score), dict(found.raters)) == (0, 0, {})


def test_of_one_rater_the_slope_is_held_and_the_rest_is_fitted():
    """Twenty answers, all for the left image: a strong side, and a score for it that a side explains away."""
    found = aggregate(as_votes([Vote("p", "ab"[n % 2], "ba"[n % 2], 1, "ann", True) for n in range(20)]))
    assert found.raters["ann"].beta == 1
    assert np.isnan(found.raters["ann"].beta_se)
    assert found.raters["ann"].bias > 3 * found.raters["ann"].bias_se
    assert np.abs(found.score).max() < 0.05
    assert "One rater alone" in found.notes[0]
    assert np.isnan(found.tie_se)


def test_always_the_same_answer_gives_finite_scores():
    found = aggregate(
        as_votes([Vote("p", "a", "b", 1, rater, n % 2 == 0) for rater in ("ann", "bob") for n in range(50)])
    )
    assert found.score[0] > 0 > found.score[1]
    assert np.isfinite([*found.score, *found.score_se]).all()


def test_images_that_no_comparison_joins_are_named_and_have_parts_of_their_own():
    votes = [Vote("p", "a", "b", 1, "ann"), Vote("p", "c", "d", 1, "bob"), Vote("q", "a", "b", -1, "bob")]
    found = aggregate(as_votes(votes))
    assert found.items == [("p", "a"), ("p", "b"), ("p", "c"), ("p", "d"), ("q", "a"), ("q", "b")]
    assert found.part[0] == found.part[1] != found.part[2] == found.part[3]
    assert len(set(found.part.tolist())) == 3
    assert "1 prompt fall into parts" in found.notes[0]
    assert all(np.isnan(each.bias) for each in found.raters.values())  # nothing was shown side by side


def test_both_bad_is_said_to_be_a_tie():
    votes = as_votes([Vote("p", "a", "b", 1, "ann"), Vote("p", "a", "b", 0, "bob")], both_bad=1)
    assert aggregate(votes).notes == ("“Both bad” is taken for a tie (1 of the answers).",)


def test_too_many_images_in_one_part_are_refused_in_words():
    chain = [Vote("p", f"{n:05d}", f"{n + 1:05d}", 1, "ann") for n in range(MOST_TOGETHER)]
    assert "3,001 images hang together" in aggregate(as_votes(chain)).notes[0]
