"""What stands of all rating kinds, in one form: sides, ties and agreement counted by hand."""

import uuid
from typing import Any

import pytest

from data import RATING_KINDS
from data.answered import Answered, agreements, kappas, votes_of
from data.records import Task
from tests.facts import a_rating, a_task, image_id

FOUR = tuple(image_id(name) for name in "abcd")


def said(kind: str, rater: str, payload: dict[str, Any], *, shown: str = "abcd", **changes: Any) -> Answered:
    """An answer about images a, b, ... that were shown in this order."""
    images = tuple(image_id(name) for name in sorted(shown))
    fields = {"task_id": "t", "round": 1, "kind": kind, "prompt_id": "p", "image_ids": images}
    task = Task(**{**fields, **changes})
    displayed = tuple(image_id(name) for name in shown)
    rating = a_rating(task, rater, payload=payload, image_ids=displayed, rating_id=str(uuid.uuid4()))
    rules = RATING_KINDS.load(kind)
    return Answered(
        rating=rating,
        task=task,
        is_skip=rules.is_skip(payload),
        outcomes=rules.outcomes(payload, image_ids=images, displayed=displayed),
        values=rules.values(payload, image_ids=images, displayed=displayed),
    )


@pytest.mark.parametrize(
    ("kind", "payload", "shown", "first_beats_last", "tied"),
    [
        ("pairwise", {"choice": "left"}, "ab", True, 0),
        ("pairwise", {"choice": "left"}, "ba", True, 0),
        ("pairwise", {"choice": "right"}, "ba", False, 0),
        ("pairwise", {"choice": "both_bad"}, "ab", None, 1),
        ("pairwise", {"choice": "skip"}, "ab", None, None),
        ("ranking", {"ranks": [2, 1, 1, 3]}, "dcba", True, 1 / 6),
        ("ranking", {"ranks": [1, 1, 1, 1]}, "abcd", None, 1),
        # The best of four says nothing of how the others stand to each other.
        ("best", {"ranks": [None, None, None, 1]}, "bacd", False, 0),
        ("best", {"ranks": [None, 1, None, None]}, "bacd", None, 0),
        ("grades", {"grades": {"overall": [5, 3, 3]}}, "cab", True, 1 / 3),
        ("good_bad", {"grades": {"overall": [1, 2]}}, "ba", False, 0),
        ("good_bad", {"grades": {"overall": [2]}}, "a", None, None),
    ],
)
def test_sides_and_ties_of_every_kind(kind, payload, shown, first_beats_last, tied):
    answer = said(kind, "ann", payload, shown=shown)
    assert answer.first_beats_last() is first_beats_last
    assert answer.tied_share() == (None if tied is None else pytest.approx(tied))


def test_agreement_of_pairs_is_about_images_and_not_sides():
    """On opposite sides the same image: full agreement of two tasks. By sides it would be none at all."""
    answers = [
        said("pairwise", rater, {"choice": choice}, shown=shown, task_id=task)
        for task, rater, choice, shown in (
            ("t1", "ann", "left", "ab"),
            ("t1", "bob", "right", "ba"),
            ("t2", "ann", "left", "ba"),
            ("t2", "bob", "right", "ab"),
        )
    ]
    assert {name: found.alpha for name, found in agreements(answers).items()} == {"Pairs": 1.0}


def test_a_tie_and_both_bad_are_not_the_same_and_checks_do_not_count():
    """Units tie | both bad, a | a and b | b."""
    answers = [
        said("pairwise", rater, {"choice": choice}, shown="ab", task_id=task)
        for task, choices in (("t1", ("tie", "both_bad")), ("t2", ("left", "left")), ("t3", ("right", "right")))
        for rater, choice in zip(("ann", "bob"), choices, strict=True)
    ]
    # D_o = 2/6; n_c = 1, 1, 2, 2, so D_e = (36 - 1 - 1 - 4 - 4) / 30 = 26/30.
    assert agreements(answers)["Pairs"].alpha == pytest.approx(1 - (2 / 6) / (26 / 30))
    gold = [
        said("pairwise", rater, {"choice": "left"}, shown="ab", task_id="g", purpose="gold") for rater in ("ann", "bob")
    ]
    assert agreements([*answers, *gold]) == agreements(answers)
    assert kappas([*answers, *gold]) == kappas(answers)
    assert len(votes_of([*answers, *gold])) == 6


def test_agreement_has_a_name_and_a_level_for_what_was_asked():
    """Neighbouring grades are nearly the same and ends are not; which is the best has no order."""
    answers = [
        said("grades", rater, {"grades": {"overall": [1, 5, 3], "hands": [given, 1, 5]}}, shown="abc")
        for rater, given in (("ann", 1), ("bob", 2))
    ]
    answers += [said("best", rater, {"ranks": [1, None, None, None]}, task_id="t2") for rater in ("ann", "bob")]
    answers += [
        said("good_bad", rater, {"grades": {"overall": [1, given]}}, shown="ab", task_id="t3")
        for rater, given in (("ann", 2), ("bob", 2))
    ]
    answers += [said("ranking", rater, {"ranks": [1, 2, 3, 4]}, task_id="t4") for rater in ("ann", "bob")]
    found = agreements(answers)
    assert set(found) == {"Grades: overall", "Grades: hands", "Best", "Good or bad", "Places"}
    # As names, the grades of hands would be 1 - (2/6) / ((36 - 9 - 1 - 4) / 30) = 0.55.
    assert 0.7 < found["Grades: hands"].alpha < found["Grades: overall"].alpha == 1
    assert (found["Best"].units, found["Places"].units, found["Places"].clusters) == (1, 4, 1)
    assert found["Best"].reason


def told(answers: list[Answered]) -> list[tuple[str, str, int, float, bool]]:
    """Votes as letters: first, second, outcome, weight, whether side by side."""
    letter = {image_id(name): name for name in "abcd"}
    votes = votes_of(answers)
    names = [letter[each] for _, each in votes.items]
    return [
        (names[first], names[second], int(outcome), float(weight), bool(side))
        for first, second, outcome, weight, side in zip(
            votes.first, votes.second, votes.outcome, votes.weight, votes.is_side_by_side, strict=True
        )
    ]


def test_votes_are_of_left_and_right():
    answers = [
        said("pairwise", "ann", {"choice": "right"}, shown="ba"),
        said("pairwise", "bob", {"choice": "left"}, shown="ba"),
        said("pairwise", "cy", {"choice": "both_bad"}, shown="ab"),
        said("pairwise", "dee", {"choice": "skip"}, shown="ab"),
    ]
    assert told(answers) == [("b", "a", -1, 1, True), ("b", "a", 1, 1, True), ("a", "b", 0, 1, True)]
    assert (votes_of(answers).both_bad, votes_of(answers).raters) == (1, ["ann", "bob", "cy"])


def test_a_ranking_of_four_counts_as_three_comparisons_and_the_best_as_one_and_a_half():
    ranking = told([said("ranking", "ann", {"ranks": [2, 1, 1, 3]}, shown="dcba")])
    assert ranking == [
        ("a", "b", -1, 0.5, False),
        ("a", "c", -1, 0.5, False),
        ("a", "d", -1, 0.5, False),
        ("b", "c", 0, 0.5, False),
        ("b", "d", 1, 0.5, False),
        ("c", "d", 1, 0.5, False),
    ]
    best = told([said("best", "ann", {"ranks": [None, None, 1, None]}, shown="dcba")])
    assert best == [("a", "b", -1, 0.5, False), ("b", "c", 1, 0.5, False), ("b", "d", 1, 0.5, False)]


def test_grades_of_one_rater_and_prompt_are_compared_by_the_last_of_each_image():
    answers = [
        said("grades", "ann", {"grades": {"overall": [4], "hands": [1]}}, shown="a", task_id="t1"),
        said("grades", "ann", {"grades": {"overall": [2]}}, shown="b", task_id="t2"),
        said("grades", "bob", {"grades": {"overall": [5]}}, shown="b", task_id="t2"),
        said("grades", "ann", {"grades": {"overall": [1]}}, shown="a", task_id="t3"),
        said("good_bad", "ann", {"grades": {"overall": [2]}}, shown="c", task_id="t4"),
        said("grades", "ann", {"grades": {"overall": [2]}}, shown="d", task_id="t5", prompt_id="another"),
    ]
    assert told(answers) == [("a", "b", -1, 1, False)]


def test_kappa_is_of_what_has_no_order():
    answers = [
        said("grades", rater, {"grades": {"overall": [1, 5]}}, shown="ab", task_id="t1") for rater in ("ann", "bob")
    ]
    answers += [
        said("pairwise", rater, {"choice": choice}, shown="ab", task_id=task)
        for task, choices in (("t2", ("left", "left")), ("t3", ("left", "right")))
        for rater, choice in zip(("ann", "bob"), choices, strict=True)
    ]
    found = kappas(answers)
    # P = 1/2; a has 3 of 4 and b has 1 of 4: P_e = 10/16.
    assert set(found) == {"Pairs"}
    assert found["Pairs"].kappa == pytest.approx((1 / 2 - 10 / 16) / (1 - 10 / 16))


def test_a_pair_that_nobody_else_saw_has_no_agreement():
    task = a_task("t")
    assert agreements([said("pairwise", "ann", {"choice": "left"}, shown="ab", task_id=task.task_id)])["Pairs"].reason
