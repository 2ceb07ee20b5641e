"""The heads against independent solvers: scikit-learn's logistic regression, scipy's optimiser, arithmetic."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from reward_models.comparisons import Comparisons
from reward_models.heads.linear import LinearHead, fit_linear, solve_davidson
from reward_models.heads.mlp import MlpHead, build_network, davidson_loss, fit_mlp


def draw(comparisons: int, features: int, *, seed: int = 0, tie_share: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A design and outcomes from a logistic model; `tie_share` of the outcomes become ties."""
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(comparisons, features))
    chance = 1 / (1 + np.exp(-design @ rng.normal(size=features)))
    outcome = np.where(rng.random(comparisons) < chance, 1, -1)
    outcome[rng.random(comparisons) < tie_share] = 0
    return design, outcome


def davidson_objective(theta: np.ndarray, design: np.ndarray, outcome: np.ndarray, penalty: np.ndarray) -> float:
    """Davidson's likelihood as printed: strengths exp(d/2) and exp(-d/2), tie strength nu; plus the penalties."""
    difference, nu = design @ theta[:-1], math.exp(theta[-1])
    a, b = np.exp(difference / 2), np.exp(-difference / 2)
    chosen = np.select([outcome == 1, outcome == -1], [a, b], nu)
    return float(-np.log(chosen / (a + b + nu)).sum() + 0.5 * penalty @ theta[:-1] ** 2 + 0.05 * theta[-1] ** 2)


@pytest.mark.parametrize("l2", [0.1, 1.0, 30.0])
@pytest.mark.parametrize(("comparisons", "features"), [(200, 5), (20, 60)])
def test_without_ties_it_is_scikit_learns_logistic_regression(comparisons, features, l2):
    design, outcome = draw(comparisons, features)
    theirs = LogisticRegression(C=1 / l2, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(design, outcome)
    ours, log_tie = solve_davidson(design, outcome, np.full(features, l2), np.ones(comparisons))
    np.testing.assert_allclose(ours, theirs.coef_[0], atol=2e-5)
    assert log_tie == -math.inf


@pytest.mark.parametrize(("comparisons", "features"), [(150, 4), (12, 30)])
def test_with_ties_it_is_the_maximum_that_scipy_finds(comparisons, features):
    design, outcome = draw(comparisons, features, tie_share=0.3)
    penalty = np.linspace(0.5, 2.0, features)
    theirs = minimize(
        davidson_objective, np.zeros(features + 1), (design, outcome, penalty), method="BFGS", options={"gtol": 1e-7}
    )
    ours, log_tie = solve_davidson(design, outcome, penalty, np.ones(comparisons))
    np.testing.assert_allclose(np.append(ours, log_tie), theirs.x, atol=1e-4)


def test_tie_rate_by_hand():
    """With no features at work, P(tie) = nu / (2 + nu): half ties means nu = 2 (but for the small penalty on it)."""
    outcome = np.array([0, 1, 0, -1] * 500)
    _, log_tie = solve_davidson(np.zeros((2000, 1)), outcome, np.ones(1), np.ones(2000))
    assert log_tie == pytest.approx(math.log(2), abs=1e-3)


def test_separable_comparisons_stay_finite():
    design, outcome = np.eye(3), np.array([1, 1, 1])
    ours, _ = solve_davidson(design, outcome, np.full(3, 1e-6), np.ones(3))
    assert np.isfinite(ours).all()
    assert (ours > 5).all()


def test_a_weight_of_two_is_the_comparison_twice():
    design, outcome = draw(40, 3, tie_share=0.2)
    counted = np.where(np.arange(40) < 10, 2.0, 1.0)
    rows = np.concatenate([np.arange(40), np.arange(10)])
    once = solve_davidson(design, outcome, np.ones(3), counted)
    twice = solve_davidson(design[rows], outcome[rows], np.ones(3), np.ones(50))
    np.testing.assert_allclose(once[0], twice[0], atol=1e-9)
    assert once[1] == pytest.approx(twice[1])


def things(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Features as `joint_features` lays them out, for random unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.nn.functional.normalize(torch.randn(2, count, width, generator=generator), dim=-1)
    return torch.cat([(image * text).sum(1, keepdim=True), image, image * text], dim=1)


def compare(utility: np.ndarray, comparisons: int, *, seed: int = 0, side_bias: float = 0.0) -> Comparisons:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(len(utility), size=(2, comparisons))
    first, second = first[first != second], second[first != second]
    side = rng.choice([1, -1], size=len(first))
    logit = utility[first] - utility[second] + side_bias * side
    outcome = np.where(rng.random(len(first)) < 1 / (1 + np.exp(-logit)), 1, -1)
    names = [(f"{number:03d}", "a red circle") for number in range(len(utility))]
    return Comparisons(names, first, second, outcome, side, ["a red circle"] * len(first))


def test_swapping_all_sides_changes_nothing():
    features = things(30, 4)
    one = compare(features[:, 3].numpy() * 8.0, 200)
    other = Comparisons(one.things, one.second, one.first, -one.outcome, -one.side, one.prompts)
    a, b = fit_linear(features, one, l2=10.0), fit_linear(features, other, l2=10.0)
    torch.testing.assert_close(a.weight, b.weight)
    assert a.side_bias == pytest.approx(b.side_bias)


def test_a_side_bias_is_found_and_kept_out_of_the_score():
    features = things(60, 4)
    fitted = fit_linear(features, compare(features[:, 3].numpy() * 8.0, 4000, side_bias=0.8), l2=1.0)
    assert fitted.side_bias == pytest.approx(0.8, abs=0.12)


def test_the_network_finds_a_side_bias_and_a_tie_rate_too():
    """Of 4,000 comparisons a third end in a tie whatever the pictures: nu = P(tie) / sqrt(P(a) P(b)) is near 1."""
    features = things(60, 4)
    comparisons = compare(features[:, 3].numpy() * 2.0, 4000, side_bias=0.8)
    assert fit_mlp(features, comparisons, seed=0, epochs=5).side_bias == pytest.approx(0.8, abs=0.12)
    assert fit_mlp(features, comparisons, seed=0, epochs=1).log_tie == -math.inf
    comparisons.outcome[np.random.default_rng(1).random(len(comparisons)) < 1 / 3] = 0
    linear = fit_linear(features, comparisons, l2=1.0)
    network = fit_mlp(features, comparisons, seed=0, epochs=5)
    assert network.side_bias == pytest.approx(linear.side_bias, abs=0.1)
    assert network.log_tie == pytest.approx(linear.log_tie, abs=0.1)


def test_with_few_ratings_the_head_leans_on_the_zero_shot_score():
    """Ten comparisons that follow the zero-shot score: at a strong penalty it alone carries the head."""
    features = things(20, 16)
    fitted = fit_linear(features, compare(features[:, 0].numpy() * 40.0, 10), l2=3000.0)
    rank = np.corrcoef(fitted.score(features).numpy(), features[:, 0].numpy())[0, 1]
    assert rank > 0.95


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_head_survives_its_file_and_knows_its_order(kind):
    features = things(40, 8)
    utility = features[:, 4].numpy() * 12.0
    comparisons = compare(utility, 600)
    if kind == "linear":
        head = fit_linear(features, comparisons, l2=10.0)
        again = LinearHead.from_tensors(head.tensors())
    else:
        head = fit_mlp(features, comparisons, seed=0, epochs=10)
        again = MlpHead.from_tensors(head.tensors())
    assert torch.equal(head.score(features), again.score(features))
    assert np.corrcoef(head.score(features).numpy(), utility)[0, 1] > 0.8


def test_the_networks_loss_by_hand():
    """d = 2 ln 3 and nu = 1: strengths 3, 1/3, 1, total 13/3; losses ln(13/9), ln 13 and ln(13/3)."""
    loss = davidson_loss(torch.full((3,), 2 * math.log(3)), torch.tensor([1, -1, 0]), torch.tensor(0.0))
    torch.testing.assert_close(loss, torch.tensor((math.log(13 / 9) + math.log(13) + math.log(13 / 3)) / 3))


def test_the_network_starts_at_a_useful_scale_and_is_not_linear():
    """The published initialisation puts out about 1e-11; ours keeps the scale of its input."""
    torch.manual_seed(0)
    fitted = fit_mlp(things(30, 32), compare(np.zeros(30), 64), seed=0, epochs=1, learning_rate=0.0)
    x = torch.randn(500, 65)
    score = fitted.network(x).squeeze(1)
    assert 0.05 < score.std() < 20
    assert not torch.allclose(fitted.network(-x).squeeze(1), -score, atol=0.01)


def test_fitting_the_network_leaves_the_callers_random_state():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    fit_mlp(things(10, 4), compare(np.zeros(10), 20), seed=0, epochs=1)
    assert torch.equal(torch.rand(2), expected)


def test_the_network_has_imagerewards_layer_sizes():
    linear = [layer for layer in build_network(768) if isinstance(layer, torch.nn.Linear)]
    assert [layer.in_features for layer in linear] == [768, 1024, 128, 64, 16]
    assert linear[-1].out_features == 1
