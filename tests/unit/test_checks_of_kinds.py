"""Repeats and gold of every rating kind in the store: in which order they are shown, and what the answers are worth."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.assignment import REPEAT_AFTER, other_order
from data.quality import consistency, gold_accuracy, share
from data.records import Task
from data.store import Store
from tests.facts import PROMPT, a_rating, a_store, an_image, everything, image_id

IMAGES = tuple(image_id(f"g-{number}") for number in range(9))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    _, store = a_store(tmp_path)
    with store:
        store.add_images(an_image(f"g-{number}") for number in range(9))
        yield store


def tasks_of(kind: str, images: int, count: int, **changes: Any) -> list[Task]:
    """Tasks with the same images, told apart by their ids alone."""
    first = Task(task_id="", round=1, kind=kind, prompt_id=PROMPT.prompt_id, image_ids=IMAGES[:images])
    return [replace(first, task_id=f"t{number:02d}", **changes) for number in range(count)]


@pytest.mark.parametrize("count", range(1, 10))
def test_a_repeat_puts_every_image_elsewhere_and_as_many_pairs_as_can_be_the_other_way_round(count: int):
    before = tuple("abcdefghi"[:count])
    after = other_order(before)
    assert sorted(after) == sorted(before)
    assert count == 1 or all(one != other for one, other in zip(before, after, strict=True))

    def turned(order: tuple[str, ...]) -> int:
        return sum(order.index(one) > order.index(other) for one, other in itertools.combinations(before, 2))

    if 1 < count < 8:
        elsewhere = (
            order
            for order in itertools.permutations(before)
            if all(one != other for one, other in zip(before, order, strict=True))
        )
        assert turned(after) == max(map(turned, elsewhere))


def rate_twice(store: Store, kind: str, before: list[dict], again: list[dict], images: int) -> None:
    """Ann answers as many tasks as there are answers, ten others, and then their repeats, shown in the other order."""
    tasks = tasks_of(kind, images, len(before) + REPEAT_AFTER)
    firsts = tasks[: len(before)]
    repeats = [replace(task, task_id=f"{task.task_id}+", purpose="repeat", repeats=task.task_id) for task in firsts]
    store.add_tasks([*tasks, *repeats])
    for task, payload in itertools.zip_longest(tasks, before, fillvalue={"choice": "skip"}):
        assert isinstance(task, Task)
        store.add_rating(a_rating(task, "ann", payload=payload))
    for task, payload in zip(repeats, again, strict=True):
        shown = store._open_round._queue_of(1).displayed(task, "ann")
        assert shown == other_order(task.image_ids)
        store.add_rating(a_rating(task, "ann", payload=payload, image_ids=shown))


def test_orders_said_twice(store: Store):
    """Of four images in canonical order w x y z, shown as z y x w the second time. First all the same; then z and y
    changed places, which is one of six pairs.
    """
    before = [{"ranks": [1, 2, 3, 4]}, {"ranks": [1, 2, 3, 4]}]
    again = [{"ranks": [4, 3, 2, 1]}, {"ranks": [3, 4, 2, 1]}]
    rate_twice(store, "ranking", before, again, 4)
    assert consistency(store) == {"ann": share([1, 5 / 6])}


def test_the_best_said_twice(store: Store):
    """The first by its place, which is another image when the order is another; then the same image elsewhere."""
    first, last = {"ranks": [1, None, None, None]}, {"ranks": [None, None, None, 1]}
    rate_twice(store, "best", [first, first], [first, last], 4)
    assert consistency(store) == {"ann": share([0, 1])}


def test_grades_said_twice_of_a_single_image(store: Store):
    said = [{"grades": {"overall": [grade]}} for grade in (4, 4, 4)]
    again = [{"grades": {"overall": [grade]}} for grade in (4, 5, 1)]
    rate_twice(store, "grades", said, again, 1)
    assert all(each.is_swapped for each in store.repeats())
    assert consistency(store) == {"ann": share([1, 0, 0])}


def test_grades_on_several_axes_are_compared_image_by_image(store: Store):
    """Two images, turned round the second time: (5, 1) becomes (1, 5), and nothing has changed but one of alignment."""
    before = [{"grades": {"overall": [5, 1], "alignment": [3, 3]}}]
    again = [{"grades": {"overall": [1, 5], "alignment": [3, 5]}}]
    rate_twice(store, "grades", before, again, 2)
    assert consistency(store) == {"ann": share([3 / 4])}


def test_good_and_bad_said_twice(store: Store):
    rate_twice(store, "good_bad", [{"grades": {"overall": [2]}}] * 2, [{"grades": {"overall": [g]}} for g in (2, 1)], 1)
    assert consistency(store) == {"ann": share([1, 0])}


@pytest.mark.parametrize(
    ("kind", "images", "known", "right", "wrong"),
    [
        ("ranking", 4, {"worse": IMAGES[0]}, {"ranks": [2, 1, 1, 1]}, {"ranks": [1, 2, 2, 3]}),
        ("best", 4, {"better": IMAGES[0]}, {"ranks": [1, None, None, None]}, {"ranks": [None, 1, None, None]}),
        ("grades", 1, {"worse": IMAGES[0]}, {"grades": {"overall": [1]}}, {"grades": {"overall": [4]}}),
        ("good_bad", 2, {"worse": IMAGES[0]}, {"grades": {"overall": [1, 2]}}, {"grades": {"overall": [2, 2]}}),
    ],
)
def test_gold_of_every_kind_is_judged_and_outlasts_a_rebuild(
    tmp_path: Path, kind: str, images: int, known: dict, right: dict, wrong: dict
):
    workspace, store = a_store(tmp_path)
    with store:
        store.add_images(an_image(f"g-{number}") for number in range(9))
        tasks = tasks_of(kind, images, 3, purpose="gold", **known)
        store.add_tasks(tasks)
        for task, payload in zip(tasks, (right, wrong, {"choice": "skip"}), strict=True):
            store.add_rating(a_rating(task, "ann", payload=payload))
        assert gold_accuracy(store) == {"ann": share([1, 0])}
        assert store.answers() == 0
        facts = everything(store)
    with Store.rebuild(workspace) as again:
        assert everything(again) == facts
        assert gold_accuracy(again) == {"ann": share([1, 0])}
