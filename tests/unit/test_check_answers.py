"""What answers to checks say, by hand in the tables."""

import pytest

from data.check_answers import GoldSaid, SaidTwice, agreement, correctness


def ranks(before: list[int | None], again: list[int | None]) -> list[SaidTwice]:
    return [SaidTwice(before=before, again=again, levels=None)]


def grades(before: list[int | None], again: list[int | None], levels: int = 5) -> list[SaidTwice]:
    return [SaidTwice(before=before, again=again, levels=levels)]


BEST, OTHER = [None, 1, None, None], [None, None, None, 1]


@pytest.mark.parametrize(
    ("said", "same"),
    [
        (ranks([1, 2], [1, 2]), 1),  # a pair
        (ranks([1, 2], [2, 1]), 0),
        (ranks([1, 2], [1, 1]), 0),
        (ranks([1, 1], [1, 1]), 1),
        (ranks(BEST, BEST), 1),
        (ranks(BEST, OTHER), 0),
        (ranks([1, 2, 3, 4], [1, 2, 4, 3]), 5 / 6),
        (ranks([1, 2, 3, 4], [4, 3, 2, 1]), 0),
        (ranks([1, 1, 2, 2], [1, 2, 2, 3]), 3 / 6),  # the same: 1-3, 1-4, 2-4; a tie made or broken: the rest
        (ranks([1, 1, 1, 1], [1, 1, 1, 1]), 1),
        (grades([4], [4]), 1),
        (grades([4], [5]), 0),
        (grades([4], [2]), 0),
        (grades([1, 3, 5], [2, 3, 1]), 1 / 3),
        (grades([1, 2], [1, 1], levels=2), 1 / 2),
        (grades([1, 2], [1, 2]) + grades([4, 4], [5, 2]), 1 / 2),  # two axes
    ],
)
def test_how_far_two_answers_agree(said: list[SaidTwice], same: float):
    assert agreement(said) == pytest.approx(same)


def gold(values: list[int | None], levels: int | None = None, axis: str = "overall") -> GoldSaid:
    return GoldSaid(axis=axis, image_ids="wxyz"[: len(values)], values=values, levels=levels)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        (gold([2, 1]), 1),  # a pair, of which w is worse
        (gold([1, 2]), 0),
        (gold([1, 1]), 0),
        (gold([4, 1, 2, 3]), 1),
        (gold([3, 1, 2, 4]), 2 / 3),
        (gold([2, 1, 2, 2]), 1 / 3),
        (gold([1, 2, 3, 4]), 0),
        (gold([2], levels=5), 1),
        (gold([3], levels=5), 0),
        (gold([1], levels=2), 1),
        (gold([2], levels=2), 0),
        (gold([1, 1], levels=5), 1),  # the picture of the prompt is no better, which may be so
        (gold([2, 4], levels=5), 1),
        (gold([2, 1], levels=5), 0),
        (gold([3, 5], levels=5), 0),
    ],
)
def test_the_image_that_was_drawn_for_something_else_stands_last_or_has_a_low_grade(said: GoldSaid, right: float):
    assert correctness([said], worse="w", better=None) == pytest.approx(right)


@pytest.mark.parametrize(("values", "right"), [([1, None, None, None], 1), ([None, 1, None, None], 0)])
def test_the_best_is_the_only_image_that_was_drawn_for_the_prompt(values: list[int | None], right: float):
    assert correctness([gold(values)], worse=None, better="w") == right


def test_where_alignment_is_asked_its_grade_is_what_gold_is_about():
    """A fine picture of something else: it may look good, but it does not fit."""
    said = [gold([4], levels=5), gold([1], levels=5, axis="alignment"), gold([5], levels=5, axis="fidelity")]
    assert correctness(said, worse="w", better=None) == 1
    assert correctness(said[::2], worse="w", better=None) == 0
