"""Repeats and gold pairs: what they are made of, how many, and that no prompt's gold could be its own."""

import logging
import random
from dataclasses import replace

import pytest

from data.checks import are_clearly_different, gold_of, repeats_of
from data.validation import check_task
from tests.facts import a_task, image_id

TASKS = [a_task(f"t{number:03d}") for number in range(40)]
TEXTS = {"p": "a green heart", "q": "three yellow squares", "r": "a blue heart above a circle"}
IMAGES = {name: [image_id(f"{name}{number}") for number in range(4)] for name in TEXTS}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a green heart", "three yellow squares", True),
        ("a green heart", "a blue heart", False),
        ("two squares", "A SQUARE!", False),
        ("an owl in the snow", "a ship on the sea", True),
        ("红色的狐狸", "蓝色的狐狸", False),
        ("狐狸", "月亮", True),
        ("a", "the", True),
    ],
)
def test_prompts_are_clearly_different_when_they_share_no_word(one: str, other: str, expected: bool):
    assert are_clearly_different(one, other) is are_clearly_different(other, one) is expected


def test_repeats_are_of_their_share_of_the_tasks_in_the_mean_also_of_few():
    """0.06 * 40 = 2.4: two or three, 2.4 in the mean of 2000 within 4 * 0.49 / sqrt(2000) = 0.044."""
    chance = random.Random(0)
    counts = [len(repeats_of(TASKS, 0.06, chance)) for _ in range(2000)]
    assert set(counts) == {2, 3}
    assert sum(counts) / 2000 == pytest.approx(2.4, abs=0.044)
    for task in repeats_of(TASKS, 0.2, chance):
        check_task(task)
        (first,) = [known for known in TASKS if known.task_id == task.repeats]
        assert (task.purpose, task.image_ids, task.prompt_id) == ("repeat", first.image_ids, first.prompt_id)


def test_a_gold_pair_is_an_image_of_the_prompt_and_one_of_a_prompt_without_a_common_word():
    chance = random.Random(0)
    found = [task for _ in range(50) for task in gold_of(TASKS, TEXTS, IMAGES, 0.05, chance)]
    assert len(found) == 100
    contrasts = {"p": ["q"], "q": ["p", "r"], "r": ["q"]}
    for task in found:
        check_task(task)
        (better,) = set(task.image_ids) - {task.worse}
        assert better in IMAGES[task.prompt_id]
        assert any(task.worse in IMAGES[name] for name in contrasts[task.prompt_id])
        assert (task.purpose, task.policy, task.propensity) == ("gold", "gold", 1.0)
    # The better image is `a` as often as `b`: 50 of 100 within 4 standard errors of 5.
    assert 30 < sum(task.image_ids[0] != task.worse for task in found) < 70
    assert {task.prompt_id for task in found} == set(TEXTS)


@pytest.mark.parametrize(("kind", "count"), [("ranking", 4), ("best", 4), ("best", 5), ("grades", 1), ("good_bad", 3)])
def test_gold_of_other_kinds_has_one_strange_image_and_that_of_the_best_one_of_the_prompt(kind: str, count: int):
    chance = random.Random(0)
    tasks = [replace(task, kind=kind, image_ids=tuple(map(image_id, range(count)))) for task in TASKS]
    found = [task for _ in range(20) for task in gold_of(tasks, TEXTS, IMAGES, 0.05, chance)]
    assert len(found) == 40
    for task in found:
        check_task(task)
        own = set(task.image_ids) & set(IMAGES[task.prompt_id])
        assert len(task.image_ids) == count
        if kind == "best":
            assert own == {task.better}
        else:
            assert {*task.image_ids} - own == {task.worse}


def test_few_images_are_no_gold_of_the_best():
    """Of the two strange images of the only contrast three are needed."""
    tasks = [replace(task, kind="best", image_ids=tuple(map(image_id, range(4)))) for task in TASKS]
    images = {"p": IMAGES["p"][:2], "q": IMAGES["q"][:2]}
    assert gold_of(tasks, TEXTS, images, 0.2, random.Random(0)) == []


def test_an_image_that_two_prompts_share_is_no_contrast():
    images = {"p": IMAGES["p"], "q": IMAGES["p"]}
    assert gold_of(TASKS, TEXTS, images, 0.2, random.Random(0)) == []


def test_prompts_without_a_contrast_have_no_gold_and_that_is_said(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        assert gold_of(TASKS, TEXTS, {"p": IMAGES["p"], "r": IMAGES["r"]}, 0.05, random.Random(0)) == []
    assert "0 gold tasks of the 2 that rate.gold asks for" in caplog.text
    caplog.clear()
    assert gold_of(TASKS, TEXTS, IMAGES, 0.0, random.Random(0)) == []
    assert not caplog.text
