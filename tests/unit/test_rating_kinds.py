"""What answers say about the images. Expected outcomes and values are worked out by hand in the tables."""

import pytest

from data import RATING_KINDS
from data.rating_kinds.extras import check_extras
from data.rating_kinds.grades import GOOD_BAD, GRADES
from data.rating_kinds.pairwise import PAIRWISE
from data.rating_kinds.ranking import BEST, RANKING
from data.records import ImageValues, Outcome
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


TASK, SHOWN = ("w", "x", "y", "z"), ("y", "w", "z", "x")


@pytest.mark.parametrize(
    ("kind", "ranks", "values"),
    [
        (RANKING, [1, 2, 3, 4], (2, 4, 1, 3)),
        (RANKING, [2, 1, 2, 2], (1, 2, 2, 2)),
        (RANKING, [1, 1, 4, 2], (1, 2, 1, 3)),  # no place is left out
        (RANKING, [3, 3, 3, 3], (1, 1, 1, 1)),
        (BEST, [None, None, 1, None], (None, None, None, 1)),
    ],
)
def test_places_go_from_where_an_image_was_shown_to_the_image(kind, ranks, values):
    (found,) = kind.values({"ranks": ranks}, image_ids=TASK, displayed=SHOWN)
    assert found == ImageValues(axis="overall", image_ids=TASK, values=values, levels=None)
    assert kind.outcomes({"ranks": ranks}, image_ids=TASK, displayed=SHOWN) == []


def test_grades_go_from_where_an_image_was_shown_to_the_image_on_every_axis():
    payload = {"grades": {"overall": [5, 1, 3, 3], "alignment": [1, 2, 3, 4]}}
    assert GRADES.values(payload, image_ids=TASK, displayed=SHOWN) == [
        ImageValues(axis="alignment", image_ids=TASK, values=(2, 4, 1, 3), levels=5),
        ImageValues(axis="overall", image_ids=TASK, values=(1, 3, 5, 3), levels=5),
    ]
    (found,) = GOOD_BAD.values({"grades": {"overall": [2]}}, image_ids=("x",), displayed=("x",))
    assert (found.values, found.levels) == ((2,), 2)


@pytest.mark.parametrize("name", RATING_KINDS.names())
def test_a_skip_of_any_kind_says_nothing(name):
    kind = RATING_KINDS.load(name)
    images = TASK[: kind.images[0]]
    skip = {"choice": "skip", "reason": "broken"}
    kind.validate(skip, len(images))
    assert kind.is_skip(skip)
    assert kind.outcomes(skip, image_ids=images, displayed=images) == []
    assert kind.values(skip, image_ids=images, displayed=images) == []
    assert {"skip"} <= {control.choice for control in kind.controls}


@pytest.mark.parametrize(
    ("kind", "payload", "words"),
    [
        (RANKING, {}, "ranks is None"),
        (RANKING, {"ranks": [1, 2, 3]}, "ranks is"),
        (RANKING, {"ranks": [1, 2, 3, 5]}, "ranks is"),
        (RANKING, {"ranks": [1, 2, 3, None]}, "ranks is"),
        (RANKING, {"ranks": [1, 2, 3, True]}, "ranks is"),
        (RANKING, {"ranks": "1234"}, "ranks is"),
        (BEST, {"ranks": [1, None, 1, None]}, "ranks is"),
        (BEST, {"ranks": [None] * 4}, "ranks is"),
        (BEST, {"ranks": [2, None, None, None]}, "ranks is"),
        (GRADES, {"grades": [1, 2, 3, 4]}, "grades is"),
        (GRADES, {"grades": {}}, "grades is"),
        (GRADES, {"grades": {"alignment": [1, 2, 3, 4]}}, "grades is"),
        (GRADES, {"grades": {"overall": [1, 2, 3, 6]}}, "grades.overall is"),
        (GRADES, {"grades": {"overall": [1, 2, 3, 4], "fidelity": [0, 1, 1, 1]}}, "grades.fidelity is"),
        (GRADES, {"grades": {"overall": [1, 2, 3, 4], "x" * 41: [1, 1, 1, 1]}}, "An axis is called"),
        (GOOD_BAD, {"grades": {"overall": [1, 2, 3, 1]}}, "grades.overall is"),
    ],
)
def test_what_is_no_answer_about_four_images_is_refused(kind, payload, words):
    with pytest.raises(ConfigError, match=words) as refusal:
        kind.validate(payload, 4)
    assert refusal.value.hint.startswith(("Send", "Use"))


def test_flags_points_and_notes_are_optional_and_checked():
    check_extras({}, 2)
    check_extras({"flags": [["hands", "text"], []], "points": [[[0, 1], [0.5, 0.25]], []], "note": "two left hands"}, 2)
    for wrong in (
        {"flags": ["hands", []]},
        {"flags": [["hands"]]},
        {"flags": [[""], []]},
        {"flags": [["x" * 41], []]},
        {"flags": "hands"},
        {"points": [[[0.5, 1.1]], []]},
        {"points": [[[0.5]], []]},
        {"points": [[[True, 0.5]], []]},
        {"points": [[[0.5, float("nan")]], []]},
        {"note": 3},
        {"note": "x" * 1001},
        {"reason": ["broken"]},
    ):
        with pytest.raises(ConfigError):
            check_extras(wrong, 2)
