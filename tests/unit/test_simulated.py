"""Simulated raters against arithmetic."""

import io
import math
from collections import Counter
from dataclasses import replace

import pytest
from PIL import Image as Picture

from apps.simulated import BAD_SHARE, Judgement, SimulatedRater, crew, look
from data.world import verifier
from data.world.scenes import Item, Scene, render
from data.world.taste import taste
from hitl.core.errors import ConfigError

RATER = SimulatedRater(name="r", seed=1, taste_weight=0.5, noise=1e-6, tie_width=0.0)
GOOD, POOR = Judgement(correctness=0.9, taste=0.4), Judgement(correctness=0.5, taste=0.6)
"""Utilities at taste weight 0.5: 1.1 and 0.8."""

TASKS = [f"task-{number}" for number in range(2500)]
IDS = ("aa", "bb")


def shares(rater: SimulatedRater, left: Judgement, right: Judgement) -> dict[str, float]:
    counts = Counter(rater.choose(task, IDS, (left, right)) for task in TASKS)
    return {choice: count / len(TASKS) for choice, count in counts.items()}


def within(share: float, expected: float) -> bool:
    """Four standard errors of a binomial share: and the draws are fixed."""
    return abs(share - expected) <= 4 * math.sqrt(expected * (1 - expected) / len(TASKS))


def png(items: tuple[Item, ...], background: str = "white", size: int = 64) -> bytes:
    file = io.BytesIO()
    Picture.fromarray(render(Scene(background, items))).resize((size, size)).save(file, "PNG")
    return file.getvalue()


def test_without_noise_the_better_picture_wins_on_either_side() -> None:
    assert shares(RATER, GOOD, POOR) == {"left": 1.0}
    assert shares(RATER, POOR, GOOD) == {"right": 1.0}


def test_taste_outweighs_correctness_when_it_weighs_enough() -> None:
    """At weight 3: 0.9 + 1.2 = 2.1 against 0.5 + 1.8 = 2.3."""
    assert shares(replace(RATER, taste_weight=3.0), GOOD, POOR) == {"right": 1.0}


def test_the_adversarial_rater_answers_the_other_way() -> None:
    assert shares(replace(RATER, adversarial=True), GOOD, POOR) == {"right": 1.0}


def test_noise_makes_the_choice_bradley_terry() -> None:
    """Difference 0.3 at temperature 0.2: left with probability 1 / (1 + e^-1.5) = 0.8176."""
    assert within(shares(replace(RATER, noise=0.2), GOOD, POOR)["left"], 1 / (1 + math.exp(-1.5)))


def test_side_bias_adds_its_share_of_lefts() -> None:
    """b + (1 - b) p with b = 0.3: p = 0 gives 0.3, and p = 0.8176 gives 0.8723."""
    biased = replace(RATER, side_bias=0.3)
    assert within(shares(biased, POOR, GOOD)["left"], 0.3)
    noisy = replace(biased, noise=0.2)
    assert within(shares(noisy, GOOD, POOR)["left"], 0.3 + 0.7 / (1 + math.exp(-1.5)))


def test_near_equals_are_a_tie() -> None:
    rater = replace(RATER, tie_width=0.05)
    near = Judgement(correctness=0.87, taste=0.4)
    assert shares(rater, GOOD, near) == {"tie": 1.0}
    assert shares(rater, GOOD, POOR) == {"left": 1.0}


def test_two_misses_are_both_bad_as_often_as_stated() -> None:
    miss, worse = Judgement(correctness=0.2, taste=0.4), Judgement(correctness=0.1, taste=0.4)
    answers = shares(RATER, miss, worse)
    assert within(answers["both_bad"], BAD_SHARE)
    assert set(answers) == {"both_bad", "left"}
    assert "both_bad" not in shares(RATER, miss, GOOD)


def test_prompts_of_another_world_are_judged_by_taste_and_never_both_bad() -> None:
    left, right = (Judgement(correctness=None, taste=value) for value in (0.3, 0.6))
    assert shares(RATER, left, right) == {"right": 1.0}


def test_the_careless_rater_does_not_look() -> None:
    careless = replace(RATER, careless=True)
    assert shares(careless, GOOD, POOR) == shares(careless, POOR, GOOD)
    assert within(shares(careless, GOOD, POOR)["left"], 0.45)


def test_the_same_task_gets_the_same_answer_and_other_raters_other_noise() -> None:
    rater = replace(RATER, noise=0.5, side_bias=0.2)
    answers = [rater.choose(task, IDS, (GOOD, POOR)) for task in TASKS[:200]]
    again = replace(RATER, noise=0.5, side_bias=0.2)
    assert answers == [again.choose(task, IDS, (GOOD, POOR)) for task in TASKS[:200]]
    assert rater.rating_id("t") == again.rating_id("t") != again.rating_id("u")
    for other in (replace(rater, seed=2), replace(rater, name="s")):
        assert answers != [other.choose(task, IDS, (GOOD, POOR)) for task in TASKS[:200]]
        assert other.rating_id("t") != rater.rating_id("t")


def test_the_same_picture_wins_when_the_sides_are_swapped() -> None:
    rater = replace(RATER, noise=0.5)
    for task in TASKS[:200]:
        plain = rater.choose(task, IDS, (GOOD, POOR))
        swapped = rater.choose(task, IDS[::-1], (POOR, GOOD))
        assert {plain, swapped} == {"left", "right"}


def test_a_crew_is_reproducible_and_its_last_raters_are_the_bad_ones() -> None:
    raters = crew(4, seed=3, taste_weight=0.5, careless=1, adversarial=1)
    assert raters == crew(4, seed=3, taste_weight=0.5, careless=1, adversarial=1)
    assert len({rater.name for rater in raters}) == 4
    assert [(rater.adversarial, rater.careless) for rater in raters] == [(False, False)] * 2 + [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize(("size", "careless", "adversarial"), [(0, 0, 0), (2, 2, 1), (2, -1, 0)])
def test_impossible_crews_are_refused(size: int, careless: int, adversarial: int) -> None:
    with pytest.raises(ConfigError, match=f"crew of {size}"):
        crew(size, seed=0, taste_weight=0.5, careless=careless, adversarial=adversarial)


@pytest.mark.parametrize("wrong", [{"noise": 0.0}, {"tie_width": -0.1}, {"side_bias": 1.5}])
def test_impossible_raters_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="Rater 'r'"):
        replace(RATER, **wrong)


def test_looking_at_a_file_is_judging_its_picture() -> None:
    item = Item("circle", "red", 30.0, 30.0, 12.0)
    picture = render(Scene("white", (item,)))
    verdict = verifier.judge(picture, "a red circle")
    assert verdict is not None
    assert look(png((item,)), "a red circle") == Judgement(correctness=verdict.score, taste=taste(picture))
    assert look(png((item,)), "an astronaut").correctness is None


def test_larger_pictures_are_scaled_to_the_world() -> None:
    item = Item("circle", "red", 30.0, 30.0, 12.0)
    large, small = (look(png((item,), size=size), "a red circle") for size in (256, 64))
    assert large.correctness == pytest.approx(small.correctness, abs=0.03)
    assert large.taste == pytest.approx(small.taste, abs=0.02)


def test_what_is_no_picture_raises_oserror() -> None:
    with pytest.raises(OSError, match="cannot identify"):
        look(b"no picture", "a red circle")
