"""How a task was shown is kept; repeats and gold are shown when they are due, and teach and fill nothing."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from data.assignment import REPEAT_AFTER, Answer
from data.migrations import MIGRATIONS
from data.records import Offer, Task
from data.store import Store
from data.workspace import Workspace
from hitl.core.errors import ConfigError, StoreError
from tests.facts import WHEN, a_rater, a_rating, a_store, a_task, everything, fill, image_id

FIXTURES = Path(__file__).parent.parent / "fixtures"
ONE, TWO = a_task("one"), a_task("two")


def again(task: Task) -> Task:
    return replace(task, task_id=f"{task.task_id} again", purpose="repeat", repeats=task.task_id)


def gold(name: str) -> Task:
    task = a_task(name)
    return replace(task, purpose="gold", worse=task.image_ids[1])


def answer(store: Store, rater: str, offer: Offer) -> None:
    assert store.add_rating(a_rating(offer.task, rater, "tie", image_ids=offer.image_ids))


def rate_through(store: Store, rater: str = "ann") -> list[Task]:
    """Answer one offer after the other until there is none; the tasks in the order in which they came."""
    seen = []
    while offers := store.lease(rater, limit=1):
        answer(store, rater, offers[0])
        seen.append(offers[0].task)
    return seen


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    _, store = a_store(tmp_path)
    with store:
        yield store


# -- how it was shown -------------------------------------------------------------------------------------------------


def test_how_a_task_was_shown_comes_back_also_after_a_rebuild(tmp_path: Path):
    workspace, store = a_store(tmp_path, ONE, TWO)
    told = a_rating(ONE, "ann", decide_ms=812, input_device="touch", screen_size="small", shown_as="display")
    with store:
        store.add_rating(told)
        store.add_rating(a_rating(TWO, "ann"))
        assert store.ratings()[0] == told
        assert store.ratings()[1].decide_ms is store.ratings()[1].shown_as is None
        facts = everything(store)
    with Store.rebuild(workspace) as store:
        assert everything(store) == facts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decide_ms": -1}, "decide_ms is -1"),
        ({"input_device": "voice"}, "input_device is 'voice'"),
        ({"screen_size": "huge"}, "screen_size is 'huge'"),
        ({"shown_as": "sketch"}, "shown_as is 'sketch'"),
    ],
)
def test_a_presentation_that_cannot_be_is_refused(store: Store, changes: dict, message: str):
    fill(store, ONE)
    with pytest.raises(ConfigError, match=message):
        store.add_rating(a_rating(ONE, "ann", **changes))
    assert store.ratings() == []


# -- journals and stores of before ------------------------------------------------------------------------------------


def test_a_journal_of_before_presentations_replays_unchanged(tmp_path: Path):
    """The fixture was written by the store at schema version 1: Ann chose the right image `b` of `one`, with the sides
    swapped, and took a skip of `two` back; Bob found both of `two` bad and chose `b` of `three`.
    """
    workspace = Workspace(tmp_path)
    before = (FIXTURES / "journal_m001.jsonl").read_bytes()
    shutil.copy(FIXTURES / "journal_m001.jsonl", workspace.journal_path)
    with Store.open(workspace) as store:
        assert workspace.journal_path.read_bytes() == before
        assert store.tasks() == [ONE, a_task("two", overlap=2), a_task("three")]
        assert [(found.task_id, found.rater_id, found.outcome, found.both_bad) for found in store.comparisons()] == [
            ("one", "ann", "b", False),
            ("three", "bob", "b", False),
            ("two", "bob", "tie", True),
        ]
        assert [rating.rating_id[-1] for rating in store.ratings()] == list("12345")
        assert all(rating.decide_ms is rating.input_device is rating.shown_as is None for rating in store.ratings())
        assert store.ratings()[4].payload == {"choice": "right", "note": "nice"}
        progress = store.progress(1, now=WHEN)
        assert (progress.done, progress.needed, progress.checks) == (3, 4, 0)
        assert store.repeats() == store.gold_answers() == []
        assert store.add_rating(a_rating(a_task("two"), "ann", decide_ms=5))


def test_a_store_of_schema_version_1_is_brought_up_to_date(tmp_path: Path):
    workspace = Workspace(tmp_path)
    with duckdb.connect(str(workspace.store_path)) as connection:
        for statement in MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute("UPDATE store_state SET schema_version = 1")
        connection.execute("INSERT INTO prompts VALUES ('p', 1, 'a green heart', 'colour', 'train')")
        images = [list(ONE.image_ids)]
        connection.execute("INSERT INTO tasks VALUES ('one', 1, 1, 'pairwise', 'p', $1, 1, 'random', 0.25)", images)
        connection.execute("INSERT INTO raters VALUES ('ann', 'Ann', 'human', '2026-11-20')")
        connection.execute(
            """
            INSERT INTO ratings VALUES
            ('r', 1, 'one', 'ann', 'pairwise', '{"choice": "left"}', $1, 9, '', '2026-11-20', '0.1', NULL, false, false)
            """,
            images,
        )
        connection.execute("INSERT INTO outcomes VALUES ('r', $1, $2, 'a', false, 'a')", images[0])
    with Store.open(workspace) as store:
        assert (store.tasks()[0].purpose, store.tasks()[0].propensity) == ("learn", 0.25)
        assert [(found.task_id, found.outcome) for found in store.comparisons()] == [("one", "a")]
        assert (store.progress(1).done, store.ratings(purpose="learn")[0].rating_id) == (1, "r")


# -- repeats ----------------------------------------------------------------------------------------------------------


def test_a_repeat_comes_ten_screens_later_with_its_sides_swapped(store: Store):
    tasks = [a_task(f"t{number:02d}") for number in range(20)]
    fill(store, *tasks)
    store.add_tasks([again(tasks[3])])
    first = None
    for _ in range(4):
        (first,) = store.lease("ann", limit=1)
        answer(store, "ann", first)
    assert first is not None
    later = []
    while offers := store.lease("ann", limit=1):
        later.append(offers[0])
        answer(store, "ann", offers[0])
    assert [offer.task.task_id for offer in later].index("t03 again") == REPEAT_AFTER
    assert later[REPEAT_AFTER].image_ids == first.image_ids[::-1]
    assert len(later) == 17


def test_a_repeat_swaps_what_was_shown_whatever_that_was(store: Store):
    """A program may show the images in an order of its own: what counts is the order that the rating came with."""
    tasks = [a_task(f"t{number:02d}") for number in range(12)]
    fill(store, *tasks)
    store.add_tasks([again(task) for task in tasks[:2]])
    for task, images in ((tasks[0], tasks[0].image_ids), (tasks[1], tasks[1].image_ids[::-1])):
        store.add_rating(a_rating(task, "ann", image_ids=images))
    for task in tasks[2:11]:
        store.add_rating(a_rating(task, "ann"))
    (offer,) = store.lease("ann", limit=1)
    assert (offer.task.task_id, offer.image_ids) == ("t00 again", tasks[0].image_ids[::-1])
    answer(store, "ann", offer)
    (offer,) = store.lease("ann", limit=1)
    assert (offer.task.task_id, offer.image_ids) == ("t01 again", tasks[1].image_ids)


def test_a_repeat_is_for_those_who_answered_and_not_for_those_who_skipped(store: Store):
    tasks = [a_task(f"t{number:02d}", overlap=2) for number in range(12)]
    fill(store, *tasks)
    store.add_tasks([again(tasks[0])])
    store.add_rating(a_rating(tasks[0], "ann", "skip"))
    assert "t00 again" not in [task.task_id for task in rate_through(store, "ann")]
    assert "t00 again" in [task.task_id for task in rate_through(store, "bob")]


def test_a_round_ends_with_its_last_task_and_not_with_a_check(store: Store):
    """Eleven tasks make the repeat of the first due only after all of them; five gold tasks come as they may."""
    tasks = [a_task(f"t{number:02d}") for number in range(11)]
    fill(store, *tasks, *(gold(f"g{number}") for number in range(5)))
    store.add_tasks([again(tasks[0])])
    seen = rate_through(store)
    assert seen[-1].purpose == "learn"
    assert store.progress(1).is_complete


def test_checks_fill_no_slot_and_are_in_no_comparison_and_no_snapshot(store: Store, tmp_path: Path):
    tasks = [a_task(f"t{number:02d}") for number in range(30)]
    tasks[0] = replace(tasks[0], policy="uncertain", propensity=0.25)
    fill(store, *tasks, gold("g"))
    store.add_tasks([again(task) for task in tasks[:3]])
    seen = rate_through(store)
    checks = [task for task in seen if task.purpose != "learn"]
    assert {task.purpose for task in checks} == {"repeat", "gold"}
    progress = store.progress(1)
    assert (progress.done, progress.needed, progress.checks) == (30, 30, len(checks))
    assert {found.task_id for found in store.comparisons()} == {task.task_id for task in tasks}
    snapshot = store.write_snapshot(tmp_path / "snapshot.parquet", 1)
    assert snapshot.comparisons == 30
    rows = pq.read_table(snapshot.path).to_pylist()
    assert {row["task_id"]: row["propensity"] for row in rows} == {task.task_id: task.propensity for task in tasks}
    assert {row["images"] for row in rows} == {None}
    assert len(store.ratings()) == len(seen)
    assert len(store.ratings(purpose="learn")) == 30
    assert store.answered("ann", 1) == len(seen)


def test_a_check_that_is_undone_comes_again(store: Store):
    tasks = [a_task(f"t{number:02d}") for number in range(14)]
    fill(store, *tasks)
    store.add_tasks([again(tasks[0])])
    for task in tasks[:11]:
        store.add_rating(a_rating(task, "ann"))
    (offer,) = store.lease("ann", limit=1)
    assert offer.task.purpose == "repeat"
    rating = a_rating(offer.task, "ann", image_ids=offer.image_ids)
    store.add_rating(rating)
    store.add_rating(a_rating(offer.task, "ann", None, voids=rating.rating_id))
    assert store.repeats() == []
    assert store.lease("ann", limit=1) == [offer]


def test_two_answers_agree_when_they_prefer_the_same_image_on_either_side(store: Store):
    """Ann prefers image a twice; Bob presses left twice, which are two images; Eve cannot decide the second time."""
    tasks = [a_task(f"t{number:02d}", overlap=3) for number in range(REPEAT_AFTER + 2)]
    fill(store, *tasks)
    store.add_rater(a_rater("eve"))
    repeat = again(tasks[0])
    store.add_tasks([repeat])
    sides = tasks[0].image_ids
    for rater, before, after in (("ann", "left", "right"), ("bob", "left", "left"), ("eve", "left", "tie")):
        store.add_rating(a_rating(tasks[0], rater, before, image_ids=sides))
        store.add_rating(a_rating(repeat, rater, after, image_ids=sides[::-1]))
    found = {each.rater_id: (each.agreement, each.is_swapped) for each in store.repeats(1)}
    assert found == {"ann": (1.0, True), "bob": (0.0, True), "eve": (0.0, True)}
    assert store.repeats(2) == []


# -- gold -------------------------------------------------------------------------------------------------------------


def test_gold_is_answered_right_by_preferring_the_other_image(store: Store):
    """Ann prefers the better one, Bob the worse, Eve a tie; both bad and a skip answer nothing."""
    task = gold("g")
    fill(store, ONE, task, raters=("ann", "bob", "eve", "may", "zoe"))
    for rater, choice in zip(("ann", "bob", "eve", "may", "zoe"), "left right tie both_bad skip".split(), strict=True):
        store.add_rating(a_rating(task, rater, choice))
    assert {found.rater_id: found.correct for found in store.gold_answers(1)} == {"ann": 1.0, "bob": 0.0, "eve": 0.0}


def test_every_rater_gets_gold_in_the_rounds_share_however_few_they_rate(store: Store):
    """Ten gold tasks among 200: 400 raters of 7 tasks are to have 0.05 * 7 = 0.35 each, and nobody two at a time."""
    tasks = [a_task(f"t{number:03d}", overlap=400) for number in range(200)]
    fill(store, *tasks, *(gold(f"g{number}") for number in range(10)))
    queue = store._open_round._queue_of(1)
    found = []
    for number in range(400):
        rater, seen = f"rater {number}", 0
        for task in tasks[:7]:
            due = queue._due(rater, [])
            assert len(due) <= 1
            for check in due:
                queue.note(check.task_id, rater, _answer(check))
                seen += 1
            queue.note(task.task_id, rater, _answer(task))
        found.append(seen)
    # Before the seventh task six are answered: 0.05 * 6 = 0.3. Each rater's number is 0 or 1, so that the mean of 400
    # has a standard error of sqrt(0.3 * 0.7 / 400) = 0.023; four of them are allowed.
    assert sum(found) / len(found) == pytest.approx(0.3, abs=0.092)
    assert set(found) == {0, 1}


def _answer(task: Task) -> Answer:
    return Answer(is_skip=False, at=WHEN, displayed=task.image_ids)


@pytest.mark.parametrize(
    "wrong",
    [
        {"purpose": "repeat"},
        {"purpose": "gold"},
        {"purpose": "gold", "worse": "0" * 64},
        {"worse": image_id("one-a")},
        {"better": image_id("one-a")},
        {"purpose": "gold", "worse": image_id("one-a"), "better": image_id("one-b")},
        {"purpose": "exam"},
    ],
)
def test_a_check_that_says_half_is_refused(store: Store, wrong: dict):
    with pytest.raises(ConfigError, match=r"Task one .* the worse image"):
        store.add_tasks([replace(ONE, **wrong)])


def test_a_repeat_of_nothing_is_refused(store: Store):
    fill(store, ONE)
    with pytest.raises(StoreError, match="no task 'other' to repeat"):
        store.add_tasks([replace(again(ONE), repeats="other")])


def test_the_pace_is_that_of_the_tasks_that_the_round_waits_for(store: Store):
    """Two tasks 10 s apart are 6 a minute, whatever checks were answered in between."""
    fill(store, ONE, TWO, gold("g"))
    for task, seconds in ((ONE, 0), (gold("g"), 5), (TWO, 10)):
        store.add_rating(a_rating(task, "ann", server_time=WHEN + timedelta(seconds=seconds)))
    assert store.progress(1, now=datetime.now(UTC)).per_minute == pytest.approx(6)
