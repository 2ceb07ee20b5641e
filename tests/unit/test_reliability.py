"""Raters' slopes, with simulated raters whose slopes are known."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata

from reward_models.answers import Answer, answers_from_rows, things_of
from reward_models.choice_model import ChoiceModel
from reward_models.choices import as_choices
from reward_models.reliability import Reliability, fit_reliability

ITEMS = 30


def said_by(slopes: dict[str, float], answers: int, *, seed: int, side_bias: dict[str, float] | None = None):
    """Pairs of 30 images, and what the raters' slopes make of the images' true quality."""
    rng = np.random.default_rng(seed)
    quality, names = rng.normal(size=ITEMS), sorted(slopes)
    rows = []
    for _ in range(answers):
        one, other = rng.choice(ITEMS, 2, replace=False)
        rater, left = str(rng.choice(names)), str(rng.choice(["a", "b"]))
        bias = (side_bias or {}).get(rater, 0.0) * (1 if left == "a" else -1)
        chance = 1 / (1 + np.exp(-slopes[rater] * (quality[one] - quality[other]) - bias))
        rows.append(
            {
                "round": 1,
                "prompt": "a dog",
                "rater_id": rater,
                "image_a": f"{one:03d}",
                "image_b": f"{other:03d}",
                "outcome": "a" if rng.random() < chance else "b",
                "left": left,
            }
        )
    return quality, answers_from_rows(rows)


def fitted(answers: list[Answer], *, weigh: bool = True) -> tuple[Reliability, dict[int, float]]:
    """Raters, and each image's score as a weight of its own (no features)."""
    things = things_of(answers)
    choices = as_choices(answers, things)
    model = ChoiceModel(np.eye(len(things)), choices, anchors=0, blocks=1)
    counted = np.ones(len(choices))
    # A weight's penalty in the model's scale, for a prior standard deviation of 1 of each image's quality.
    l2 = float(model._scale[0] ** 2)
    found = fit_reliability(model, answers, l2, counted)
    if weigh:
        model = model.with_slopes(found.slope)
    scores = model.fit(np.array([l2]), counted[:, None]).scores[:, 0]
    return found, {int(image): float(score) for (image, _), score in zip(things, scores, strict=True)}


EIGHT = {f"r{n}": 1.0 for n in range(6)} | {"random": 0.0, "turned": -1.0}


def test_random_and_adversarial_raters_are_told_from_the_others():
    _, answers = said_by(EIGHT, 4000, seed=0)
    found, _ = fitted(answers)
    slopes = {name: rater.reliability for name, rater in found.raters.items()}
    honest = [slopes[f"r{n}"] for n in range(6)]
    assert abs(slopes["random"]) < 0.25 * np.mean(honest)
    assert slopes["turned"] == pytest.approx(-np.mean(honest), rel=0.25)
    assert min(honest) > 0.8 * np.mean(honest)
    assert np.median(list(slopes.values())) == pytest.approx(1.0)
    for name, rater in found.raters.items():
        assert 0.02 < rater.reliability_se < 0.25, name


@pytest.mark.long
@pytest.mark.parametrize(("answers", "lead"), [(400, 0.05), (4000, 0.01)])
def test_weighing_raters_beats_taking_all_alike_and_keeps_up_with_a_joint_fit(answers, lead):
    """Rank correlation with the truth, when one of eight raters is random and one is turned round."""
    found = []
    for seed in range(6):
        quality, said = said_by(EIGHT, answers, seed=seed)
        scores = [*(fitted(said, weigh=weigh)[1] for weigh in (False, True)), joint(said)]
        found.append([rank_correlation(each, quality) for each in scores])
    alike, followed, jointly = np.mean(found, axis=0)
    assert followed > alike + lead
    assert followed > jointly - 0.01


def joint(answers: list[Answer]) -> dict[int, float]:
    """Images, slopes and sides at once, by scipy: s ~ N(0, 1), beta ~ N(1, 1), b ~ N(0, 1/4)."""
    names = sorted({answer.rater for answer in answers})
    rater = np.array([names.index(answer.rater) for answer in answers])
    one, other = (np.array([int(answer.images[side]) for answer in answers]) for side in (0, 1))
    sign = np.array([1 if answer.values[0] == 1 else -1 for answer in answers])
    left = np.array([1 if answer.left == answer.images[0] else -1 for answer in answers])

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        s, beta, b = np.split(theta, [ITEMS, ITEMS + len(names)])
        apart = s[one] - s[other]
        logit = sign * (beta[rater] * apart + b[rater] * left)
        pull = -sign * expit(-logit)
        by_score = pull * beta[rater]
        slope_s = np.bincount(one, by_score, ITEMS) - np.bincount(other, by_score, ITEMS) + s
        slope_beta = np.bincount(rater, pull * apart, len(names)) + beta - 1
        slope_b = np.bincount(rater, pull * left, len(names)) + 4 * b
        value = np.logaddexp(0, -logit).sum() + 0.5 * (s @ s + (beta - 1) @ (beta - 1) + 4 * b @ b)
        return float(value), np.concatenate([slope_s, slope_beta, slope_b])

    start = np.concatenate([np.zeros(ITEMS), np.ones(len(names)), np.zeros(len(names))])
    return dict(enumerate(minimize(objective, start, jac=True, method="L-BFGS-B").x[:ITEMS]))


def rank_correlation(scores: dict[int, float], quality: np.ndarray) -> float:
    images = sorted(scores)
    ranks = rankdata([scores[image] for image in images]), rankdata(quality[images])
    return float(np.corrcoef(*ranks)[0, 1])


def test_equal_raters_are_taken_nearly_alike():
    _, answers = said_by({f"r{n}": 1.0 for n in range(4)}, 2000, seed=1)
    found, _ = fitted(answers)
    assert all(rater.reliability == pytest.approx(1.0, abs=0.3) for rater in found.raters.values())


def test_side_bias_is_a_raters_own():
    _, answers = said_by({"even": 1.0, "left": 1.0}, 3000, seed=1, side_bias={"left": 0.8})
    found, _ = fitted(answers)
    assert found.raters["left"].side_bias - found.raters["even"].side_bias == pytest.approx(0.8, abs=0.2)
    assert found.raters["left"].side_bias_se == pytest.approx(0.06, abs=0.03)


def test_a_lone_rater_is_taken_at_one():
    _, answers = said_by({"ann": 1.0}, 300, seed=0)
    found, _ = fitted(answers)
    assert found.raters["ann"].reliability == 1.0
    assert found.raters["ann"].answers == 300
    assert (found.slope == 1.0).all()
