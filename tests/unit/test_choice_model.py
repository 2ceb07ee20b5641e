"""The likelihood of choices against independent solvers: scikit-learn, scipy, choix, arithmetic by hand."""

import itertools
import math

import choix
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import approx_fprime, minimize
from sklearn.linear_model import LogisticRegression

from reward_models.answers import Answer
from reward_models.choice_model import ChoiceModel, fit_columns, losses_of_scores
from reward_models.choices import ANCHOR_PENALTY, Choices, as_choices

PROMPT = "a red circle"


def pair(one: int, other: int, outcome: int, *, left: int | None = None, rater: str = "ann", **more) -> Answer:
    values = {1: (1, 2), -1: (2, 1), 0: (1, 1)}[outcome]
    images = (f"{one:03d}", f"{other:03d}")
    return Answer(
        prompt=PROMPT, rater=rater, images=images, values=values, left="" if left is None else f"{left:03d}", **more
    )


def choices_of(answers: list[Answer], count: int) -> Choices:
    return as_choices(answers, [(f"{number:03d}", PROMPT) for number in range(count)])


def draw(
    count: int, features: int, answers: int, *, ties: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, list[Answer]]:
    """Random features and pairs whose outcomes follow a linear score; a share of them become ties."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, features))
    score = x @ rng.normal(size=features)
    found = []
    for _ in range(answers):
        one, other = rng.choice(count, 2, replace=False)
        outcome = 1 if rng.random() < 1 / (1 + np.exp(score[other] - score[one])) else -1
        found.append(pair(int(one), int(other), 0 if rng.random() < ties else outcome))
    return x, found


def fitted(x: np.ndarray, choices: Choices, l2: float, *, anchors: int = 0, weights: np.ndarray | None = None):
    model = ChoiceModel(x, choices, anchors=anchors, blocks=1)
    counted = np.ones(len(choices)) if weights is None else weights
    return model, model.posterior(l2, counted, model.fit(np.array([l2]), counted[:, None], tolerance=1e-3))


def scaled(x: np.ndarray, choices: Choices) -> np.ndarray:
    """Features as the model scales them: differences with a root mean square of 1, when there are two alternatives."""
    ends = [choices.scores[[start, start + 1]].toarray() @ x for start in choices.starts[:-1]]
    return x / math.sqrt(np.mean([(one - other) ** 2 for one, other in ends]))


@pytest.mark.parametrize("l2", [0.1, 1.0, 30.0])
@pytest.mark.parametrize(("answers", "features"), [(200, 5), (20, 60)])
def test_without_ties_it_is_scikit_learns_logistic_regression(answers, features, l2):
    x, said = draw(25, features, answers)
    choices = choices_of(said, 25)
    _, ours = fitted(x, choices, l2)
    z = scaled(x, choices)
    one, other = (np.array([int(answer.images[side]) for answer in said]) for side in (0, 1))
    outcome = np.array([1 if answer.values[0] == 1 else -1 for answer in said])
    theirs = LogisticRegression(C=1 / l2, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(
        z[one] - z[other], outcome
    )
    np.testing.assert_allclose(x @ ours.weight, z @ theirs.coef_[0], atol=1e-4)


def davidson(theta: np.ndarray, z: np.ndarray, said: list[Answer], l2: float) -> float:
    """Davidson's likelihood as printed: strengths exp(s), tie strength nu times the root of their product."""
    score, nu, total = z @ theta[:-1], math.exp(theta[-1]), 0.0
    for answer in said:
        a, b = (math.exp(score[int(image)]) for image in answer.images)
        tie = nu * math.sqrt(a * b)
        chosen = tie if answer.values[0] == answer.values[1] else a if answer.values[0] == 1 else b
        total -= math.log(chosen / (a + b + tie))
    return total + 0.5 * l2 * theta[:-1] @ theta[:-1] + 0.5 * ANCHOR_PENALTY * theta[-1] ** 2


@pytest.mark.parametrize(("answers", "features"), [(150, 4), (12, 30)])
def test_with_ties_it_is_the_maximum_that_scipy_finds(answers, features):
    x, said = draw(20, features, answers, ties=0.3)
    choices = choices_of(said, 20)
    model, ours = fitted(x, choices, 2.0)
    z = model._x @ model._basis.T  # the model's own scaling, which for three alternatives is not the pair's
    theirs = minimize(davidson, np.zeros(features + 1), (z, said, 2.0), method="BFGS", options={"gtol": 1e-7})
    scores = (x - x.mean(0)) @ ours.weight
    np.testing.assert_allclose(scores - scores.mean(), z @ theirs.x[:-1] - (z @ theirs.x[:-1]).mean(), atol=1e-4)
    assert ours.extras[choices.extra_names.index("tie")] == pytest.approx(theirs.x[-1], abs=1e-4)


def test_tie_rate_by_hand():
    """Of equal images P(tie) = nu / (2 + nu): half ties means nu = 2 (but for the small penalty on it)."""
    said = [pair(0, 1, outcome) for outcome in [0, 1, 0, -1] * 500]
    _, extras = losses_of_scores(choices_of(said, 2), np.zeros(2), np.ones(2000))
    assert extras[0] == pytest.approx(math.log(2), abs=1e-3)


def test_both_bad_by_hand():
    """Two images with score 0 and threshold c: P(both bad) = e^c / (2 + nu + e^c). Half both bad, a quarter ties and a
    quarter decided: nu = 2 and e^c = 4. Better images are less often both bad.
    """
    answers = [pair(0, 1, 0, both_bad=True)] * 2 + [pair(0, 1, 0), pair(0, 1, 1)] + [pair(0, 1, 0, both_bad=True)] * 2
    said = [*answers, pair(0, 1, 0), pair(0, 1, -1)] * 1000
    choices = choices_of(said, 2)
    _, extras = losses_of_scores(choices, np.zeros(2), np.ones(len(said)))
    named = dict(zip(choices.extra_names, extras, strict=True))
    assert named["tie"] == pytest.approx(math.log(2), abs=0.01)
    assert named["both bad"] + named[f"both bad, prompt {PROMPT}"] == pytest.approx(math.log(4), abs=0.01)
    worse, _ = losses_of_scores(choices, np.array([-1.0, -1.0]), np.ones(len(said)))
    better, _ = losses_of_scores(choices, np.array([1.0, 1.0]), np.ones(len(said)))
    assert worse.sum() == pytest.approx(better.sum(), rel=0.01)  # the threshold moves along: nothing to compare with


def ranking(images: tuple[int, ...], ranks: tuple[int | None, ...]) -> Answer:
    return Answer(prompt=PROMPT, rater="ann", images=tuple(f"{image:03d}" for image in images), values=ranks)


def plackett_luce(scores: np.ndarray, order: list[int]) -> float:
    """Minus the log of the product of exp(s) over the sum of what is left, as in every textbook."""
    return -sum(
        scores[order[place]] - math.log(sum(math.exp(scores[other]) for other in order[place:]))
        for place in range(len(order) - 1)
    )


def test_a_ranking_without_ties_is_plackett_luces():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=6)
    for _ in range(5):
        order = rng.permutation(6).tolist()
        ranks = tuple(order.index(image) + 1 for image in range(6))
        loss, _ = losses_of_scores(choices_of([ranking(tuple(range(6)), ranks)], 6), scores, np.ones(5))
        assert loss.sum() == pytest.approx(plackett_luce(scores, order))


@pytest.mark.parametrize("kind", ["pairs", "rankings"])
def test_without_features_and_ties_scores_are_choixs(kind):
    """The maximum of the likelihood with a score for each image: penalties so weak that neither feels its own."""
    rng, count = np.random.default_rng(0), 8
    strength = np.exp(rng.normal(size=count))
    orders = []
    for _ in range(120):
        some = rng.choice(count, 2 if kind == "pairs" else 5, replace=False)
        orders.append(rng.choice(some, len(some), replace=False, p=strength[some] / strength[some].sum()).tolist())
    said = [ranking(tuple(order), tuple(range(1, len(order) + 1))) for order in orders]
    _, ours = fitted(np.eye(count), choices_of(said, count), 1e-7)
    solve = choix.opt_pairwise if kind == "pairs" else choix.opt_rankings
    theirs = solve(count, orders, alpha=1e-9, tol=1e-9)
    np.testing.assert_allclose(ours.weight - ours.weight.mean(), theirs - theirs.mean(), atol=1e-3)


def test_all_rankings_with_ties_have_a_probability_of_one_together():
    """Every way to put four images into tiers of at most two; the tie rate is whatever was fitted."""
    ways = {
        tuple(sorted(set(ranks)).index(rank) + 1 for rank in ranks)
        for ranks in itertools.product(range(1, 5), repeat=4)
    }
    ways = [ranks for ranks in ways if max(ranks.count(rank) for rank in ranks) <= 2]
    assert len(ways) == 24 + 36 + 6
    said = [ranking((0, 1, 2, 3), ranks) for ranks in ways]
    choices = choices_of(said, 4)
    losses, _ = losses_of_scores(choices, np.array([0.3, -1.0, 0.5, 1.4]), np.ones(len(choices)))
    by_answer = np.bincount(choices.answer, weights=losses)
    assert np.exp(-by_answer).sum() == pytest.approx(1.0)


def test_best_of_four_is_one_choice_among_four():
    scores = np.array([0.3, -1.0, 0.5, 1.4])
    loss, _ = losses_of_scores(choices_of([ranking((0, 1, 2, 3), (None, None, 1, None))], 4), scores, np.ones(1))
    assert loss == pytest.approx([math.log(np.exp(scores).sum()) - 0.5])


def test_a_place_with_many_tied_images_counts_each_as_better_than_the_rest():
    """Nine images, five tied first: too many subsets. Each of the five is chosen among itself and the four below."""
    ranks = (1, 1, 1, 1, 1, 2, 3, 4, 5)
    choices = choices_of([ranking(tuple(range(9)), ranks)], 9)
    assert choices.sizes.tolist().count(5) == 5
    assert len(choices) == 5 + 3


def grade(image: int, value: int, *, levels: int = 5, rater: str = "ann", prompt: str = PROMPT) -> Answer:
    return Answer(prompt=prompt, rater=rater, images=(f"{image:03d}",), values=(value,), levels=levels)


def test_good_and_bad_is_scikit_learns_logistic_regression_with_an_intercept():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    good = rng.random(300) < 1 / (1 + np.exp(-x @ [1.0, -1.0, 0.5] - 0.5))
    said = [grade(number, 2 if is_good else 1, levels=2) for number, is_good in enumerate(good)]
    choices = choices_of(said, 300)
    model, ours = fitted(x, choices, 1e-6)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, good)
    np.testing.assert_allclose(ours.weight, theirs.coef_[0], rtol=0.02)
    assert model.parameters == 3 + 3  # two levels and the prompt's offset


def test_grades_are_adjacent_categories():
    """P(level) is proportional to exp(tau + (level - 3) s): neighbouring levels' odds move with s by one."""
    said = [grade(0, level) for level in (1, 2, 3, 4, 5)] * 20
    choices = choices_of(said, 1)
    for score in (0.0, 0.7):
        loss, extras = losses_of_scores(choices, np.array([score]), np.ones(len(said)))
        utility = choices.scores.toarray()[:5, 0] * score + (choices.extras @ extras)[:5]
        np.testing.assert_allclose(np.exp(-loss[:5]), np.exp(utility) / np.exp(utility).sum())
    np.testing.assert_allclose(np.diff(choices.scores.toarray()[:5, 0]), 1.0)


def test_a_strict_rater_says_nothing_about_a_picture():
    """Ann grades two below Bob whatever she sees; who graded what must not move scores."""
    rng, said = np.random.default_rng(0), []
    quality = rng.integers(3, 6, size=40)
    for number, value in enumerate(quality):
        strict = number % 2 == 0
        said.append(grade(number, int(value) - 2 * strict, rater="ann" if strict else "bob", prompt=PROMPT))
    choices = choices_of(said, 40)
    _, ours = fitted(np.eye(40), choices, 3.0)
    scores = ours.weight
    of_quality = [scores[quality == value].mean() for value in (3, 4, 5)]
    assert of_quality == sorted(of_quality)
    gap = (
        scores[::2].mean()
        - scores[1::2].mean()
        - (quality[::2].mean() - quality[1::2].mean()) * np.diff(of_quality).mean()
    )
    assert abs(gap) < 0.15 * 2 * np.diff(of_quality).mean()  # of the two levels between the raters


def test_a_side_bias_is_found_and_kept_out_of_the_score():
    rng, said = np.random.default_rng(0), []
    quality = rng.normal(size=30)
    for _ in range(4000):
        one, other = rng.choice(30, 2, replace=False)
        left = int(rng.choice([one, other]))
        logit = quality[one] - quality[other] + (0.8 if left == one else -0.8)
        said.append(pair(int(one), int(other), 1 if rng.random() < 1 / (1 + np.exp(-logit)) else -1, left=left))
    choices = choices_of(said, 30)
    _, ours = fitted(np.eye(30), choices, 0.1)
    assert ours.extras[choices.extra_names.index("side")] == pytest.approx(0.8, abs=0.12)
    assert np.corrcoef(ours.weight, quality)[0, 1] > 0.97


def test_separable_answers_stay_finite():
    x = np.eye(4)
    _, ours = fitted(x, choices_of([pair(0, 1, 1), pair(2, 3, 1)], 4), 1e-6)
    assert np.isfinite(ours.weight).all()
    assert ours.weight[0] - ours.weight[1] > 5


def test_a_weight_of_two_is_the_answer_twice():
    x, said = draw(10, 3, 60, ties=0.2)
    counted = np.where(np.arange(60) < 10, 2.0, 1.0)
    _, once = fitted(x, choices_of(said, 10), 1e-6, weights=counted)
    _, twice = fitted(x, choices_of([*said, *said[:10]], 10), 1e-6)
    np.testing.assert_allclose(once.weight, twice.weight, atol=1e-5)
    np.testing.assert_allclose(once.extras, twice.extras, atol=1e-5)


def test_many_fits_at_once_are_each_fit_alone():
    x, said = draw(40, 6, 120, ties=0.2)
    choices = choices_of(said, 40)
    model = ChoiceModel(x, choices, blocks=2)
    rng = np.random.default_rng(1)
    l2 = np.array([100.0, 10.0, 1.0, 0.1])
    weights = (rng.random((120, 4)) < 0.7).astype(float)
    together = model.fit(l2, weights, tolerance=1e-6)
    for column in range(4):
        alone = model.posterior(l2[column], weights[:, column], together, column)
        scores = (x - x.mean(0)) @ alone.weight
        np.testing.assert_allclose(together.scores[:, column], scores, atol=1e-4)


def test_the_posterior_is_the_inverse_of_the_curvature():
    """Of a well-determined fit: numerical second derivatives of the objective as written, in the given features."""
    x, said = draw(20, 3, 200, ties=0.2)
    choices = choices_of(said, 20)
    model, ours = fitted(x, choices, 2.0)
    z = model._x @ model._basis.T
    theirs = minimize(davidson, np.zeros(4), (z, said, 2.0), method="BFGS", options={"gtol": 1e-8})
    hessian = np.stack(
        [np.asarray(approx_fprime(theirs.x, slope, 1e-4, davidson, part, z, said, 2.0)) for part in range(4)]
    )
    covariance = np.linalg.inv(hessian)[:3, :3]
    spread = np.einsum("ij,jk,ik->i", x - x.mean(0), ours.covariance, x - x.mean(0))
    np.testing.assert_allclose(spread, np.einsum("ij,jk,ik->i", z, covariance, z), rtol=1e-3)


@pytest.mark.parametrize("answers", [8, 40, 400])
def test_the_evidence_is_the_integral_of_the_likelihood_over_the_prior(answers):
    """Of one feature: by quadrature, between pairs of penalties, for Laplace's approximation leaves a constant out."""
    x, said = draw(12, 1, answers)
    choices = choices_of(said, 12)
    z = scaled(x, choices)[:, 0]
    order = [(each.images if each.values == (1, 2) else each.images[::-1]) for each in said]
    better, worse = (np.array([z[int(images[side])] for images in order]) for side in (0, 1))

    def likelihood(weight: float, l2: float) -> float:
        log = -np.log1p(np.exp(-weight * (better - worse))).sum() - 0.5 * l2 * weight**2
        return math.exp(log + 0.5 * answers) * math.sqrt(l2 / (2 * math.pi))  # scaled, or 400 of them vanish

    grid = np.array([0.1, 1.0, 10.0, 100.0])
    expected = [math.log(quad(likelihood, -15, 15, args=(l2,), points=[0, 1], limit=500)[0]) for l2 in grid]
    model = ChoiceModel(x, choices, anchors=0, blocks=1)
    found = model.log_evidence(grid, np.ones((len(choices), len(grid))))
    np.testing.assert_allclose(found - found.max(), np.array(expected) - max(expected), atol=0.15, rtol=0.05)


def test_directions_without_data_keep_their_prior():
    """Two images that differ in the first feature alone: the second feature's weight is as unknown as before."""
    x = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    _, ours = fitted(x, choices_of([pair(0, 1, 1)] * 50, 2), 4.0)
    scale = 2 / math.sqrt(3)  # of the differences (2, 0, 0)
    assert ours.covariance[1, 1] == pytest.approx(1 / 4 / scale**2, rel=1e-6)
    assert ours.covariance[0, 0] < ours.covariance[1, 1] / 2
    assert ours.weight[1:] == pytest.approx([0, 0])


def test_with_few_answers_the_first_feature_leads():
    x, _ = draw(40, 6, 1)
    said = [pair(one, one + 1, 1 if x[one, 0] > x[one + 1, 0] else -1) for one in range(10)]
    _, ours = fitted(x, choices_of(said, 40), 3000.0, anchors=1)
    assert np.corrcoef(x @ ours.weight, x[:, 0])[0, 1] > 0.99


def slope(point: np.ndarray, objective, part: int, *arguments) -> float:
    """Central difference of the objective along one coordinate."""
    step = 1e-4 * np.eye(len(point))[part]
    return (objective(point + step, *arguments) - objective(point - step, *arguments)) / 2e-4


def test_a_few_columns_by_newton_are_scipys():
    x, said = draw(12, 2, 80)
    choices = choices_of(said, 12)
    columns, fixed = choices.scores @ x, np.random.default_rng(0).normal(size=160)

    def objective(theta: np.ndarray) -> float:
        utility = (columns @ theta + fixed).reshape(-1, 2)
        chosen = utility[np.arange(80), choices.chosen - choices.starts[:-1]]
        return float(np.logaddexp(*utility.T).sum() - chosen.sum() + 0.5 * ((theta - [1, 0]) ** 2 @ [2.0, 3.0]))

    ours, covariance = fit_columns(choices, columns, fixed, np.ones(80), [1.0, 0.0], [2.0, 3.0])
    theirs = minimize(objective, [0.0, 0.0], method="BFGS", options={"gtol": 1e-8})
    np.testing.assert_allclose(ours, theirs.x, atol=1e-5)
    hessian = np.stack([np.asarray(approx_fprime(theirs.x, slope, 1e-4, objective, part)) for part in range(2)])
    np.testing.assert_allclose(covariance, np.linalg.inv(hessian), rtol=1e-3)
