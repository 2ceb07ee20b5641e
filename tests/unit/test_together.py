"""Work handed in by many threads: each gets its own result or error, and many are done at a time when many wait."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data.database import Database
from data.store import Store
from data.together import Together
from hitl.core.errors import ConfigError, StoreError
from tests.facts import a_rating, a_store, a_task, everything


def test_what_comes_in_while_one_is_at_work_is_done_at_once():
    """The first is held up until nine others wait: two batches, of one and of nine."""
    batches: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def work(items: Sequence[int]) -> list[int | Exception]:
        batches.append(len(items))
        begun.set()
        assert go_on.wait(10)
        return [ValueError(item) if item == 5 else item * item for item in items]

    together: Together[int, int] = Together(work)
    with ThreadPoolExecutor(10) as threads:
        first = threads.submit(together.do, 0)
        assert begun.wait(10)
        others = [threads.submit(together.do, number) for number in range(1, 10)]
        while len(together._waiting) < 9:
            pass
        go_on.set()
        assert first.result() == 0
        assert [each.exception() is None and each.result() for each in others if each is not others[4]] == [
            number * number for number in range(1, 10) if number != 5
        ]
        assert isinstance(others[4].exception(), ValueError)
    assert batches == [1, 9]


def test_one_that_fails_does_not_take_the_others_along_nor_come_to_nothing():
    def work(items: Sequence[int]) -> list[int | Exception]:
        if 3 in items:
            raise RuntimeError(f"in {len(items)}")
        return list(items)

    together: Together[int, int] = Together(work, most=4)
    with ThreadPoolExecutor(12) as threads:
        asked = [threads.submit(together.do, number) for number in range(12)]
        assert [each.result() for number, each in enumerate(asked) if number != 3] == [0, 1, 2, *range(4, 12)]
        with pytest.raises(RuntimeError, match="in 1"):
            asked[3].result()


def test_ratings_of_many_threads_are_kept_once_each_and_a_rebuild_knows_them_all(tmp_path: Path):
    """Half of them are sent twice at once, as by a browser that tries again; one rater answers a task twice."""
    tasks = [a_task(f"t{number}", overlap=2) for number in range(20)]
    workspace, store = a_store(tmp_path, *tasks)
    ratings = [a_rating(task, rater_id) for task in tasks for rater_id in ("ann", "bob")]
    again = a_rating(tasks[0], "ann", "right")
    with store:
        with ThreadPoolExecutor(16) as threads:
            kept = list(threads.map(store.add_rating, [*ratings, *ratings[::2]]))
        assert sum(kept) == len(ratings)
        assert store.add_rating(again) is False
        assert sorted(each.rating_id for each in store.ratings()) == sorted(each.rating_id for each in ratings)
        before = everything(store)
    with Store.rebuild(workspace) as rebuilt:
        assert everything(rebuilt) == before


def test_of_ratings_kept_together_the_later_ones_are_judged_after_the_earlier_ones(tmp_path: Path):
    one, two = a_task("one"), a_task("two")
    _, store = a_store(tmp_path, one, two)
    first = a_rating(one, "ann")
    with store:
        arrived = [
            first,
            first,
            a_rating(one, "ann", "right"),
            a_rating(one, "ann", None, voids=first.rating_id),
            a_rating(one, "ann", "tie"),
            a_rating(two, "nobody"),
            a_rating(two, "bob"),
        ]
        outcomes = store._keep(arrived)
        assert [each if isinstance(each, bool) else type(each) for each in outcomes] == [
            True,
            False,
            False,
            True,
            True,
            ConfigError,
            True,
        ]
        assert [each.rating_id for each in store.ratings()] == [arrived[n].rating_id for n in (0, 3, 4, 6)]


def test_when_a_commit_fails_each_rating_is_told_so_and_can_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tasks = [a_task(f"t{number}") for number in range(6)]
    _, store = a_store(tmp_path, *tasks)
    ratings = [a_rating(task, "ann") for task in tasks]

    def full(*_: object) -> None:
        raise StoreError("The disk is full.", hint="Make room.")

    def outcome_of(rating: object) -> object:
        try:
            return store.add_rating(rating)  # pyright: ignore[reportArgumentType]
        except StoreError as error:
            return error.message

    with store:
        with monkeypatch.context() as patch:
            patch.setattr(Database, "transaction", full)
            with ThreadPoolExecutor(6) as threads:
                assert list(threads.map(outcome_of, ratings)) == ["The disk is full."] * 6
        assert [store.add_rating(rating) for rating in ratings] == [True] * 6
