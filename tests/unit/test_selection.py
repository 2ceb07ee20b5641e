"""What a part is judged on has no say in how it was fitted; and the features that the answers speak for are found."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.bootstrap import Interval
from reward_models.answers import Answer, groups, things_of
from reward_models.backbone import joint_features
from reward_models.choices import Choices, as_choices
from reward_models.folds import Folds
from reward_models.intervals import cross_validated
from reward_models.readings import compare_readings
from reward_models.selection import Tried, learning_curve, try_linear

GRID = (1000.0, 300.0, 100.0, 30.0, 10.0)
PROMPTS, IMAGES, WIDTH = 40, 4, 24


def features(seed: int = 0) -> np.ndarray:
    """Of four images of each of forty prompts, as `joint_features` lays them out."""
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.normal(size=(PROMPTS * IMAGES, WIDTH))).float()
    text = torch.from_numpy(np.repeat(rng.normal(size=(PROMPTS, WIDTH)), IMAGES, 0)).float()
    unit = torch.nn.functional.normalize
    return joint_features(unit(image, dim=1), unit(text, dim=1)).numpy()


def said(utility: np.ndarray, count: int = 400, *, prompts: int = PROMPTS, seed: int = 0) -> list[Answer]:
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        prompt = int(rng.integers(prompts))
        one, other = rng.choice(IMAGES, 2, replace=False)
        apart = utility[prompt * IMAGES + one] - utility[prompt * IMAGES + other]
        values = (1, 2) if rng.random() < 1 / (1 + np.exp(-apart)) else (2, 1)
        images = tuple(f"{prompt:02d}-{image}" for image in (one, other))
        found.append(Answer(prompt=f"{prompt:02d}", rater="ann", images=images, values=values))
    return found


def tried(x: np.ndarray, answers: list[Answer], parts: int = 5) -> tuple[Tried, Folds, Choices, np.ndarray]:
    things = things_of(answers)
    rows = np.array([int(name.split("-")[0]) * IMAGES + int(name.split("-")[1]) for name, _ in things])
    choices, (group, _) = as_choices(answers, things), groups(answers, things)
    folds, counted = Folds.of(choices, group, parts), np.ones(len(answers))
    readings = compare_readings(x[rows], choices, folds, GRID, counted)
    return try_linear(readings, folds, counted), folds, choices, group


def test_all_answers_about_a_prompt_are_in_one_part():
    answers = said(np.zeros(PROMPTS * IMAGES))
    _, folds, choices, _ = tried(features(), answers)
    parts: dict[str, set[int]] = {}
    for answer, part in zip(choices.answer, folds.of_choice, strict=True):
        parts.setdefault(answers[answer].prompt, set()).add(int(part))
    assert all(len(found) == 1 for found in parts.values())
    assert folds.count == 5
    assert np.bincount(folds.of_choice).min() > 60


@pytest.mark.parametrize(
    ("columns", "reads"),
    [(slice(1, 1 + WIDTH), "image"), (slice(1 + WIDTH, None), "image × text"), (slice(0, 1), "CLIP score")],
)
def test_the_features_that_matter_are_found(columns, reads):
    x = features()
    weight = np.random.default_rng(1).normal(size=x.shape[1])
    score = x[:, columns] @ weight[columns]
    candidate = tried(x, said(3 * score / score.std(), 800))[0].candidate
    assert reads in candidate.reads.split(", ")
    assert (candidate.reads == "image") == (reads == "image")
    assert candidate.log_loss < 0.6


def test_what_a_part_is_judged_on_has_no_say_in_its_scores():
    """Every answer in the first part is turned round: its own held-out scores stay to the last bit."""
    x = features()
    answers = said(x @ np.random.default_rng(1).normal(size=x.shape[1]) * 8)
    before, folds, choices, _ = tried(x, answers)
    mine = set(choices.answer[folds.of_choice == 0].tolist())
    turned = [
        replace(answer, values=answer.values[::-1]) if number in mine else answer
        for number, answer in enumerate(answers)
    ]
    after = tried(x, turned)[0]
    inside = folds.of_thing == 0
    np.testing.assert_allclose(before.scores[inside], after.scores[inside], atol=1e-12)
    assert np.abs(before.scores[~inside] - after.scores[~inside]).max() > 0.01


@pytest.mark.long
def test_more_answers_are_not_worse_on_average():
    x, means = features(), []
    weight = np.random.default_rng(1).normal(size=x.shape[1]) * 8
    for seed in range(4):
        answers = said(x @ weight, 800, seed=seed)
        things = things_of(answers)
        rows = np.array([int(name.split("-")[0]) * IMAGES + int(name.split("-")[1]) for name, _ in things])
        choices, (group, _) = as_choices(answers, things), groups(answers, things)
        folds, counted = Folds.of(choices, group, 5), np.ones(len(answers))
        readings = compare_readings(x[rows], choices, folds, GRID, counted)
        curve = learning_curve(readings, folds, GRID, counted, (0.1, 0.9), seed=0)
        truth = x[rows] @ weight
        means.append([np.corrcoef(scores, truth)[0, 1] for scores in curve])
    few, many = np.mean(means, axis=0)
    assert many > few + 0.1


def test_the_interval_of_five_parts_is_half_as_wide_again():
    found = cross_validated(Interval(0.6, 0.5, 0.72, 100, 30), 5)
    assert (found.low, found.high) == pytest.approx((0.45, 0.78))
    assert (found.mean, found.n, found.clusters) == (0.6, 100, 30)
