"""What a pairwise answer says about the images. Expected outcomes are worked out by hand in the table."""

import pytest

from data import RATING_KINDS
from data.rating_kinds.pairwise import PAIRWISE
from data.records import Outcome
from hitl.core.errors import ConfigError, UnknownName

# The task's images are (x, y): x is `a`. Shown in this order, this key was pressed, so this one won.
CASES = [
    (("x", "y"), "left", "a"),
    (("x", "y"), "right", "b"),
    (("y", "x"), "left", "b"),
    (("y", "x"), "right", "a"),
    (("x", "y"), "tie", "tie"),
    (("y", "x"), "both_bad", "tie"),
]


@pytest.mark.parametrize(("displayed", "choice", "winner"), CASES)
def test_the_side_is_turned_into_the_image(displayed: tuple[str, str], choice: str, winner: str):
    assert PAIRWISE.outcomes({"choice": choice}, image_ids=("x", "y"), displayed=displayed) == [
        Outcome(
            image_a="x",
            image_b="y",
            outcome=winner,  # type: ignore[arg-type]
            both_bad=choice == "both_bad",
            left="a" if displayed[0] == "x" else "b",
        )
    ]


def test_a_skip_says_nothing():
    assert PAIRWISE.is_skip({"choice": "skip"})
    assert not PAIRWISE.is_skip({"choice": "tie"})
    assert PAIRWISE.outcomes({"choice": "skip"}, image_ids=("x", "y"), displayed=("x", "y")) == []


@pytest.mark.parametrize(
    "payload", [{}, {"choice": "Left"}, {"choice": None}, {"choice": ["left"]}, {"winner": "left"}]
)
def test_what_is_no_answer_is_refused_with_the_list_of_answers(payload: dict[str, object]):
    with pytest.raises(ConfigError) as caught:
        PAIRWISE.validate(payload)
    assert "left, right, tie, both_bad, skip" in caught.value.hint


def test_each_control_has_its_own_key_and_is_a_valid_answer():
    keys = [control.key for control in PAIRWISE.controls]
    assert len(set(keys)) == len(keys)
    for control in PAIRWISE.controls:
        PAIRWISE.validate({"choice": control.choice})


def test_the_registry_knows_it_and_lists_what_it_knows():
    assert RATING_KINDS.load("pairwise") is PAIRWISE
    with pytest.raises(UnknownName) as caught:
        RATING_KINDS.load("pairwize")
    assert "Did you mean pairwise?" in caught.value.hint
