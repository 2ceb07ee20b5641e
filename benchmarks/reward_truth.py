"""What a reward fit makes of raters whose taste is known: how near it comes to what can be known from so many answers.

    python -m benchmarks.reward_truth --out benchmarks/results/reward_truth.json

Images are random unit vectors, as CLIP's features are; a rater's utility is linear in them, scaled so that nobody could
predict more than 78 % of their answers. The fit sees [CLIP score, image, image * text] and does not know which of it
matters. It is judged on the pairs of 400 new prompts, by the answers of such a rater (no ties): `bayes` is the true
utility itself, `achievable` a ridge logistic regression on the true features alone whose penalty is the best on the
very pairs it is judged on.

Every case is several worlds; means come with twice their standard errors, and differences are paired.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from benchmarks.machine import describe
from data.bootstrap import interval
from data.ordering import is_right
from reward_models.answers import Answer, compared, groups, things_of
from reward_models.backbone import joint_features
from reward_models.choice_model import ChoiceModel
from reward_models.choices import as_choices
from reward_models.config import RewardFitConfig
from reward_models.folds import Folds
from reward_models.heads.imagereward import fit_imagereward
from reward_models.heads.mlp import fit_mlp
from reward_models.intervals import cross_validated
from reward_models.readings import compare_readings
from reward_models.reliability import fit_reliability
from reward_models.selection import try_linear

IMAGES = 4
"""Of each prompt."""
NEW_PROMPTS = 400
BAYES = 0.78
GRID, FOLDS = RewardFitConfig().l2, RewardFitConfig().folds
CAREFUL = {f"r{n}": 1.0 for n in range(8)}
MIXED = {f"r{n}": 1.0 for n in range(6)} | {"random": 0.0, "turned": -1.0}


class World:
    """Images of prompts, a taste, and raters who answer by it with their own slopes."""

    def __init__(self, seed: int, width: int, prompts: int, *, ties: float = 0.0, uneven: bool = False) -> None:
        """`uneven`: the images of a prompt have something in common, from hardly anything to nearly all."""
        self._chance = np.random.default_rng([seed, width])
        self._ties = ties
        self._uneven = uneven
        taste = self._chance.normal(size=width)
        self.features, self.true, utility = self._images(prompts, taste)
        self._new_features, self._new_true, new_utility = self._images(NEW_PROMPTS, taste)
        scale = _scale_for(BAYES, new_utility)
        self.utility, self._new_utility = scale * utility, scale * new_utility

    def _images(self, prompts: int, taste: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, text = (_unit(self._chance.normal(size=(count, len(taste)))) for count in (prompts * IMAGES, prompts))
        if self._uneven:
            share = self._chance.uniform(0, 0.98, size=(prompts, 1))
            common, own = np.repeat(text, IMAGES, 0), image
            image = _unit(np.repeat(share, IMAGES, 0) * common + np.repeat(np.sqrt(1 - share**2), IMAGES, 0) * own)
        joint = joint_features(torch.from_numpy(image).float(), torch.from_numpy(np.repeat(text, IMAGES, 0)).float())
        return joint.numpy(), image, image @ taste

    def answers(self, count: int, raters: dict[str, float] | None = None) -> list[Answer]:
        """Pairs of one prompt. A tie is the more likely the nearer the two are (Davidson)."""
        raters = raters or {"ann": 1.0}
        return [self._pair(str(self._chance.choice(sorted(raters))), raters) for _ in range(count)]

    def _pair(self, rater: str, raters: dict[str, float]) -> Answer:
        prompt = int(self._chance.integers(len(self.utility) // IMAGES))
        one, other = self._chance.choice(IMAGES, 2, replace=False)
        apart = raters[rater] * (self.utility[prompt * IMAGES + one] - self.utility[prompt * IMAGES + other])
        strengths = np.array([np.exp(apart / 2), np.exp(-apart / 2), self._ties])
        chosen = self._chance.choice(3, p=strengths / strengths.sum())
        images = tuple(f"{prompt:05d}-{image}" for image in (one, other))
        return Answer(
            prompt=f"{prompt:05d}",
            rater=rater,
            images=images,
            values=((1, 2), (2, 1), (1, 1))[chosen],
            left=images[int(self._chance.integers(2))],
        )

    def rows(self, answers: list[Answer]) -> tuple[list[tuple[str, str]], np.ndarray]:
        """Things and their features."""
        things = things_of(answers)
        return things, np.array([_row(thing) for thing in things])

    def judged(self, score: Callable[[np.ndarray], np.ndarray], *, on_true: bool = False) -> float:
        """Expected share of right answers on all pairs of the new prompts."""
        found = score(self._new_true if on_true else self._new_features).reshape(NEW_PROMPTS, IMAGES)
        return _expected(found, self._new_utility.reshape(NEW_PROMPTS, IMAGES))

    def bayes(self) -> float:
        truth = self._new_utility.reshape(NEW_PROMPTS, IMAGES)
        return _expected(truth, truth)

    def achievable(self, answers: list[Answer]) -> float:
        one, other = (np.array([_row((a.images[side], a.prompt)) for a in answers]) for side in (0, 1))
        apart = self.true[one] - self.true[other]
        outcome = np.array([1 if a.values[0] == 1 else 0 for a in answers])
        found = []
        for penalty in np.logspace(-3, 2, 16):
            ridge = LogisticRegression(C=1 / penalty, fit_intercept=False, max_iter=1000).fit(apart, outcome)
            found.append(self.judged(lambda x, w=ridge.coef_[0]: x @ w, on_true=True))
        return max(found)


def _row(thing: tuple[str, str]) -> int:
    prompt, image = thing[0].split("-")
    return int(prompt) * IMAGES + int(image)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _expected(found: np.ndarray, truth: np.ndarray) -> float:
    one, other = np.triu_indices(IMAGES, 1)
    apart, true = found[:, one] - found[:, other], truth[:, one] - truth[:, other]
    return float(expit(np.sign(apart) * true)[apart != 0].mean()) if (apart != 0).any() else 0.5


def _scale_for(accuracy: float, utility: np.ndarray) -> float:
    """By bisection: the scale at which the true order is right so often."""
    low, high, truth = 0.0, 1e4, utility.reshape(-1, IMAGES)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _expected(truth, middle * truth) < accuracy else (low, middle)
    return (low + high) / 2


def linear(
    world: World, answers: list[Answer], *, weigh: bool = False, features: np.ndarray | None = None
) -> tuple[np.ndarray, ChoiceModel, Any]:
    """Our weights: features and penalty by evidence, raters weighed or not."""
    things, rows = world.rows(answers)
    choices = as_choices(answers, things)
    group, _ = groups(answers, things)
    counted, folds = np.ones(len(choices)), Folds.of(choices, group, FOLDS)
    readings = compare_readings(world.features[rows], choices, folds, GRID, counted)
    if weigh:
        slope = fit_reliability(readings.model, answers, readings.l2, counted).slope
        readings = readings.with_slopes(slope, folds, GRID, counted)
    tried, model = try_linear(readings, folds, counted), readings.model
    l2 = tried.candidate.l2
    assert l2 is not None
    posterior = model.posterior(l2, counted, model.fit(np.array([l2]), counted[:, None]))
    return posterior.weight, model, (tried, folds, group, things)


def network(world: World, answers: list[Answer], fit: Callable[..., Any]) -> Callable[[np.ndarray], np.ndarray]:
    things, rows = world.rows(answers)
    head = fit(torch.from_numpy(world.features[rows]).float(), as_choices(answers, things), seed=0)
    return lambda x: head.predict(torch.from_numpy(x).float())[0].detach().numpy()


def heads(seed: int, width: int, count: int) -> dict[str, float]:
    """Every head on the same answers. As many prompts as pairs / 8, at least 40."""
    world = World(seed, width, max(count // 8, 40))
    answers = world.answers(count)
    weight, _, _ = linear(world, answers)
    return {
        "bayes": world.bayes(),
        "achievable": world.achievable(answers),
        "linear": world.judged(lambda x: x @ weight),
        "mlp": world.judged(network(world, answers, fit_mlp)),
        "imagereward": world.judged(network(world, answers, fit_imagereward)),
        "zero-shot": world.judged(lambda x: x[:, 0]),
    }


def ties(seed: int, width: int, count: int) -> dict[str, float]:
    """About 30 % ties: as ties, left out, and as wins thrown by a coin."""
    world = World(seed, width, max(count // 8, 40), ties=0.95)
    answers = world.answers(count)
    coin = np.random.default_rng(seed)
    tied = [each.values == (1, 1) for each in answers]
    thrown = [
        _with_values(each, ((1, 2), (2, 1))[int(coin.integers(2))]) if is_tie else each
        for each, is_tie in zip(answers, tied, strict=True)
    ]
    cases = {"as ties": answers, "left out": [a for a, t in zip(answers, tied, strict=True) if not t], "thrown": thrown}
    found = {"share of ties": float(np.mean(tied))}
    for name, said in cases.items():
        weight, _, _ = linear(world, said)
        found[name] = world.judged(lambda x, w=weight: x @ w)
    return found


def _with_values(answer: Answer, values: tuple[int, int]) -> Answer:
    return Answer(prompt=answer.prompt, rater=answer.rater, images=answer.images, values=values, left=answer.left)


def raters(seed: int, width: int, count: int) -> dict[str, float]:
    """One of eight raters answers at random and one the other way round; and eight that are all alike."""
    found = {}
    for name, crew in (("two bad of eight", MIXED), ("all alike", CAREFUL)):
        world = World(seed, width, max(count // 8, 40))
        answers = world.answers(count, crew)
        good = [answer for answer in answers if crew[answer.rater] == 1]
        for how, said, weigh in (("plain", answers, False), ("weighed", answers, True), ("good alone", good, False)):
            weight, _, _ = linear(world, said, weigh=weigh)
            found[f"{name}, {how}"] = world.judged(lambda x, w=weight: x @ w)
    return found


def coverage(seed: int, width: int, count: int) -> dict[str, float]:
    """Whether the interval of the cross-validated accuracy holds the fit's true accuracy, and the posterior's 95 %
    intervals of differences the true differences.
    """
    world = World(seed, width, max(count // 8, 15))
    answers = world.answers(count)
    weight, model, (tried, folds, group, things) = linear(world, answers)
    pairs = compared(answers, things)
    apart = tried.scores[pairs.first] - tried.scores[pairs.second]
    right = is_right(apart, pairs.outcome)
    found = cross_validated(interval(right, group[pairs.first], seed=0), folds.count)
    true = world.judged(lambda x: x @ weight)
    counted = np.ones(len(model.choices))
    fits = model.fit(np.array([tried.candidate.l2]), counted[:, None])
    posterior = model.posterior(tried.candidate.l2, counted, fits)
    image = world._new_features.reshape(NEW_PROMPTS, IMAGES, -1)
    utility = world._new_utility.reshape(NEW_PROMPTS, IMAGES)
    difference = image[:, 0] - image[:, 1]
    deviation = np.sqrt(np.einsum("ij,jk,ik->i", difference, posterior.covariance, difference))
    error = difference @ posterior.weight - (utility[:, 0] - utility[:, 1])
    return {
        "accuracy in its interval": float(found.low <= true <= found.high),
        "width of the interval": found.high - found.low,
        "true differences in the posterior's": float((np.abs(error) <= 1.96 * deviation).mean()),
    }


def coin(seed: int, width: int, count: int) -> dict[str, float]:
    """Answers that have nothing to do with the images: how often the fit's interval lies above one half."""
    world = World(seed, width, 30)
    world.utility[:] = 0
    answers = world.answers(count)
    _, _, (tried, folds, group, things) = linear(world, answers)
    pairs = compared(answers, things)
    right = is_right(tried.scores[pairs.first] - tried.scores[pairs.second], pairs.outcome)
    found = interval(right, group[pairs.first], seed=0)
    return {
        "held-out accuracy": found.mean,
        "above one half": float(cross_validated(found, folds.count).low > 0.5),
        "above one half, parts taken for independent": float(found.low > 0.5),
    }


CASES: dict[str, tuple[Callable[[int, int, int], dict[str, float]], list[tuple[int, int]], int]] = {
    "heads": (heads, [(width, count) for width in (256, 768) for count in (300, 1000, 3000)], 8),
    "ties": (ties, [(256, 300), (256, 1000), (256, 3000)], 12),
    "raters": (raters, [(256, 300), (256, 1000), (256, 3000)], 8),
    "coin": (coin, [(64, 160)], 200),
    "coverage": (coverage, [(128, 120), (128, 480)], 200),
}
"""Name -> (case, (width of the image features, pairs), worlds)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--worlds", type=int, default=0, help="Worlds of each case. Default: the case's own.")
    arguments = parser.parse_args()
    results = []
    for name in arguments.only:
        case, sizes, worlds = CASES[name]
        for width, count in sizes:
            found = [case(seed, width, count) for seed in range(arguments.worlds or worlds)]
            results.append({"case": name, "width": width, "pairs": count, "worlds": len(found), **_summary(found)})
            print(json.dumps(results[-1]), flush=True)
            report = {"command": shlex.join(["python", "-m", "benchmarks.reward_truth", *sys.argv[1:]])}
            arguments.out.write_text(json.dumps(report | {"machine": describe(), "results": results}, indent=2) + "\n")


def _summary(found: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    table = {}
    for name in found[0]:
        values = np.array([each[name] for each in found])
        table[name] = {
            "mean": round(float(values.mean()), 4),
            "two_standard_errors": round(float(2 * values.std(ddof=1) / np.sqrt(len(values))), 4),
        }
    return table


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
