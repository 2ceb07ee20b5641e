"""Consistency and gold accuracy of raters: against counting by hand, and scipy's Beta distribution."""

from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import beta

from data.aggregation import Aggregate, RaterEffect
from data.answered import answered
from data.quality import (
    RaterQuality,
    Slopes,
    consistency,
    doubts,
    gold_accuracy,
    raters_quality,
    repeat_consistency,
    share,
    slopes_of,
)
from tests.facts import WHEN, a_rater, a_rating, a_store, a_task


def test_a_share_and_its_standard_error():
    """2 of 3: Beta(2.5, 1.5). 0 of 4: Beta(0.5, 4.5), whose deviation is not 0."""
    assert share([1, 0, 1]).value == pytest.approx(2 / 3)
    assert share([1, 0, 1]).se == pytest.approx(beta(2.5, 1.5).std())
    assert (share([0] * 4).value, share([0] * 4).n) == (0.0, 4)
    assert share([0] * 4).se == pytest.approx(beta(0.5, 4.5).std()) != 0


def test_with_many_answers_the_standard_error_is_the_binomial_one():
    assert share([1] * 700 + [0] * 300).se == pytest.approx((0.7 * 0.3 / 1000) ** 0.5, rel=1e-2)


def test_consistency_is_of_swapped_repeats_that_stand(tmp_path: Path):
    """Ann: one agreement, another choice, a tie the second time, and a repeat taken back. Bob's was not swapped."""
    tasks = [a_task(f"t{number}", overlap=2) for number in range(4)]
    again = [replace(task, task_id=f"{task.task_id}+", purpose="repeat", repeats=task.task_id) for task in tasks]
    _, store = a_store(tmp_path, *tasks)
    with store:
        store.add_tasks(again)
        for task, repeat, choice in zip(tasks, again, ("right", "left", "tie", "right"), strict=True):
            store.add_rating(a_rating(task, "ann", "left"))
            store.add_rating(a_rating(repeat, "ann", choice, image_ids=task.image_ids[::-1]))
        store.add_rating(a_rating(again[3], "ann", None, voids=store.ratings()[-1].rating_id))
        store.add_rating(a_rating(tasks[0], "bob", "left"))
        store.add_rating(a_rating(again[0], "bob", "left"))
        assert consistency(store) == consistency(store, 1) == {"ann": share([1, 0, 0])}
        assert consistency(store, 2) == gold_accuracy(store) == {}
        together = repeat_consistency(store)
        assert (together.mean, together.n, together.clusters) == (pytest.approx(1 / 3), 3, 1)
        assert repeat_consistency(store, 2).n == 0


def test_gold_accuracy_is_of_answers_to_the_question(tmp_path: Path):
    """Ann is right, right and wrong; her `both bad` says nothing of which is worse. Bob cannot tell: that is wrong."""
    gold = [
        replace(task, purpose="gold", worse=task.image_ids[number % 2])
        for number, task in enumerate(a_task(f"g{number}") for number in range(4))
    ]
    _, store = a_store(tmp_path, *gold)
    with store:
        for task, choice in zip(gold, ("right", "left", "left", "both_bad"), strict=True):
            store.add_rating(a_rating(task, "ann", choice))
        store.add_rating(a_rating(gold[0], "bob", "tie"))
        assert gold_accuracy(store) == {"ann": share([1, 1, 0]), "bob": share([0])}


def a_quality(**changes: Any) -> RaterQuality:
    """A rater whom nobody has to look at."""
    fields: dict[str, Any] = {
        "rater": a_rater("ann"),
        "answers": 40,
        "skips": 0,
        "left": share([1, 0] * 20),
        "ties": share([0] * 40),
        "consistency": share([1] * 8 + [0] * 2),
        "gold": share([1] * 10),
        "dwell_s": (2.0, 3.0, 4.0),
        "last_at": WHEN,
        "slopes": Slopes(reliability=1.0, reliability_se=0.2, side_bias=0.1, side_bias_se=0.2),
    }
    return RaterQuality(**{**fields, **changes})


def slopes(reliability: float, se: float, side_bias: float = 0.0) -> Slopes:
    return Slopes(reliability=reliability, reliability_se=se, side_bias=side_bias, side_bias_se=0.2)


def test_slopes_are_those_of_the_fit_and_nothing_is_doubted_that_cannot_be_told():
    fitted = Aggregate(
        raters={
            name: RaterEffect(beta=2, beta_se=0.5, reliability=value, reliability_se=se, bias=0.3, bias_se=0.1)
            for name, value, se in (("ann", -1.0, 0.2), ("bob", nan, nan))
        }
    )
    found = slopes_of(fitted)
    assert found["ann"] == Slopes(reliability=-1, reliability_se=0.2, side_bias=0.3, side_bias_se=0.1)
    assert isnan(found["bob"].reliability)
    assert [*doubts(a_quality(slopes=found["bob"]), typical_s=3.0)] == []
    assert slopes_of(Aggregate()) == {}


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({}, None),
        ({"slopes": slopes(-1.0, 0.3)}, "answers the other way round than the others"),
        ({"slopes": slopes(0.0, 0.2)}, "hardly follows what the others answer"),
        ({"slopes": slopes(0.0, 0.7)}, None),  # too little is known
        ({"slopes": slopes(1.0, 0.2, side_bias=1.5)}, "takes the left picture whatever it shows"),
        ({"slopes": slopes(1.0, 0.2, side_bias=-1.5)}, "takes the right picture whatever it shows"),
        ({"slopes": slopes(1.0, 0.2, side_bias=0.8)}, None),
        ({"slopes": Slopes(reliability=1, reliability_se=0.2, side_bias=nan, side_bias_se=nan)}, None),
        ({"slopes": None, "consistency": None, "gold": None, "left": None, "dwell_s": ()}, None),
        ({"consistency": share([0, 1] * 20)}, None),
        ({"consistency": share([0, 0, 1] * 10)}, "answers the same question differently the next time"),
        ({"consistency": share([0])}, None),
        ({"gold": share([1, 0] * 10)}, "misses what is known to be worse"),
        ({"gold": share([0])}, None),  # P(share < 0.8) = 0.959 by Beta(0.5, 1.5); of two it is 0.993
        ({"gold": share([0, 0])}, "misses what is known to be worse"),
        ({"dwell_s": (0.2, 0.3, 9.0)}, "answers in 0.3 s where 3.0 s are usual"),
        ({"dwell_s": (1.1, 1.1)}, None),
    ],
)
def test_who_needs_a_look(changes: dict[str, Any], doubt: str | None):
    assert [*doubts(a_quality(**changes), typical_s=3.0)] == ([] if doubt is None else [doubt])


def test_what_a_rater_did_is_counted_by_hand(tmp_path: Path):
    """Ann: left, right on swapped sides, tie, skip, and one taken back. Bob only skips: nothing is known of him."""
    tasks = [a_task(f"t{number}", overlap=2) for number in range(5)]
    _, store = a_store(tmp_path, *tasks)
    with store:
        store.add_rating(a_rating(tasks[0], "ann", "left", dwell_ms=1000))
        store.add_rating(a_rating(tasks[1], "ann", "right", image_ids=tasks[1].image_ids[::-1], dwell_ms=2000))
        store.add_rating(a_rating(tasks[2], "ann", "tie", dwell_ms=6000))
        store.add_rating(a_rating(tasks[3], "ann", "skip", dwell_ms=100))
        store.add_rating(a_rating(tasks[4], "ann", "left"))
        store.add_rating(a_rating(tasks[4], "ann", None, voids=store.ratings()[-1].rating_id))
        store.add_rating(a_rating(tasks[0], "bob", "skip"))
        ann, bob = raters_quality(store, answered(store), {"ann": slopes(1.0, 0.2)}, 1)
    assert (ann.rater.name, ann.answers, ann.skips, ann.median_s) == ("Ann", 3, 1, 2.0)
    assert (ann.left, ann.ties) == (share([1, 0]), share([0, 0, 1]))
    assert ann.slopes == slopes(1.0, 0.2)
    assert (bob.answers, bob.skips, bob.left, bob.ties, bob.dwell_s, bob.slopes) == (0, 1, None, None, (), None)
    assert bob.doubts == ()
