"""Consistency and gold accuracy of raters: against counting by hand, and scipy's Beta distribution."""

from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import beta

from data.quality import consistency, gold_accuracy, reversals, share
from tests.facts import a_rating, a_store, a_task


def test_a_share_and_its_standard_error():
    """2 of 3: Beta(2.5, 1.5). 0 of 4: Beta(0.5, 4.5), whose deviation is not 0."""
    assert share([1, 0, 1]).value == pytest.approx(2 / 3)
    assert share([1, 0, 1]).se == pytest.approx(beta(2.5, 1.5).std())
    assert (share([0] * 4).value, share([0] * 4).n) == (0.0, 4)
    assert share([0] * 4).se == pytest.approx(beta(0.5, 4.5).std()) != 0


def test_with_many_answers_the_standard_error_is_the_binomial_one():
    assert share([1] * 700 + [0] * 300).se == pytest.approx((0.7 * 0.3 / 1000) ** 0.5, rel=1e-2)


def test_consistency_and_reversals_are_of_swapped_repeats_that_stand(tmp_path: Path):
    """Ann: one agreement, one reversal, a tie the second time, and a repeat taken back. Bob's was not swapped."""
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
        assert reversals(store) == {"ann": share([0, 1, 0])}
        assert consistency(store, 2) == gold_accuracy(store) == {}


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
