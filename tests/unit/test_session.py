"""The rating desk over a real store: what a rater is offered, what is taken from them, and what is refused."""

import json
import struct
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from apps.session import RatingDesk, Refused, Submission, Withdrawal, clean_name
from data.records import Image, Prompt, Task
from data.store import Store
from data.workspace import Workspace
from hitl.core.errors import ConfigError
from hitl.core.live import Live


def one_pixel(value: int) -> bytes:
    """A PNG of one grey pixel, written by hand as the format's specification has it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes([0, value]))) + chunk(b"IEND", b"")


TOLD = {
    "task_id",
    "round",
    "kind",
    "screen",
    "levels",
    "controls",
    "axes",
    "flags",
    "prompt",
    "image_ids",
    "images",
    "display_copies",
}
"""All that a page hears of a task."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[RatingDesk]:
    """Round 1 with three tasks; the machine waits for people."""
    workspace = Workspace(tmp_path)
    with Store.open(workspace, create=True) as store:
        prompt = Prompt.of("a green heart")
        store.add_prompts([prompt])
        store.start_round(1, "sha")
        ids = [workspace.add_image(one_pixel(value)) for value in range(6)]
        store.add_images(
            Image(
                image_id=image_id,
                prompt_id=prompt.prompt_id,
                round=1,
                width=1,
                height=1,
                provenance={"model": "secret-model", "seed": 4711},
            )
            for image_id in ids
        )
        store.add_tasks(
            Task(task_id=f"t{i}", round=1, kind="pairwise", prompt_id=prompt.prompt_id, image_ids=(ids[i], ids[i + 3]))
            for i in range(3)
        )
        live = Live()
        live.enter("rate", "Waiting for ratings", round=1, rounds=5)
        yield RatingDesk(store, live)


def submission(task: dict[str, Any], choice: str = "left", **changes: Any) -> Submission:
    fields = {
        "rating_id": str(uuid.uuid4()),
        "task_id": task["task_id"],
        "kind": task["kind"],
        "payload": {"choice": choice},
        "image_ids": task["image_ids"],
        "dwell_ms": 900,
        "client_time": datetime.now(UTC).isoformat(),
    }
    return Submission(**{**fields, **changes})


@pytest.mark.parametrize(
    ("given", "kept"),
    [("  Anna \n Bo ", "Anna Bo"), ("e\u0301", "\u00e9"), ("Ann\x00a\u202e", "Ann a"), ("x" * 60, "x" * 60)],
)
def test_a_name_is_kept_without_what_cannot_be_seen(given: str, kept: str) -> None:
    assert clean_name(given) == kept


@pytest.mark.parametrize("given", ["", "   ", "\x00", "x" * 61])
def test_a_name_of_nothing_or_too_much_is_refused(given: str) -> None:
    with pytest.raises(Refused):
        clean_name(given)


def test_the_same_name_is_the_same_rater_and_a_machine_cannot_take_it(desk: RatingDesk) -> None:
    anna = desk.join("Anna")
    assert desk.join(" anna ").rater_id == anna.rater_id
    with pytest.raises(Refused) as refusal:
        desk.join("Anna", kind="simulated")
    assert refusal.value.status == 409


def test_a_task_on_the_wire_says_nothing_of_model_or_seed(desk: RatingDesk) -> None:
    seen = desk.next_tasks(desk.join("Anna").rater_id, 3)
    assert seen["state"] == "rating"
    assert len(seen["tasks"]) == 3
    told = {
        "task_id",
        "round",
        "kind",
        "screen",
        "levels",
        "controls",
        "axes",
        "flags",
        "prompt",
        "image_ids",
        "images",
        "display_copies",
    }
    assert set(seen["tasks"][0]) == told
    assert "secret-model" not in json.dumps(seen)
    assert "4711" not in json.dumps(seen)


def test_two_raters_are_not_handed_the_same_task(desk: RatingDesk) -> None:
    first = desk.next_tasks(desk.join("Anna").rater_id, 2)["tasks"]
    second = desk.next_tasks(desk.join("Bo").rater_id, 2)["tasks"]
    assert [len(first), len(second)] == [2, 1]
    assert not {task["task_id"] for task in first} & {task["task_id"] for task in second}


def test_the_side_that_was_chosen_is_the_image_that_wins(desk: RatingDesk) -> None:
    rater = desk.join("Anna").rater_id
    for task in desk.next_tasks(rater, 3)["tasks"]:
        assert desk.accept(rater, submission(task, "right")).stored
    for found in desk.store.comparisons(1):
        winner = found.image_a if found.outcome == "a" else found.image_b
        (shown,) = [rating.image_ids for rating in desk.store.ratings() if rating.task_id == found.task_id]
        assert winner == shown[1]


def test_a_rating_sent_twice_counts_once_and_so_does_a_task_rated_in_two_tabs(desk: RatingDesk) -> None:
    rater = desk.join("Anna").rater_id
    task = desk.next_tasks(rater, 1)["tasks"][0]
    rating = submission(task)
    assert [desk.accept(rater, rating).stored for _ in range(3)] == [True, False, False]
    assert not desk.accept(rater, submission(task, "right")).stored
    assert [found.outcome for found in desk.store.comparisons(1)] == [desk.store.comparisons(1)[0].left]


def test_an_undone_task_comes_back_and_can_be_rated_again(desk: RatingDesk) -> None:
    rater = desk.join("Anna").rater_id
    task = desk.next_tasks(rater, 1)["tasks"][0]
    first = submission(task, "left")
    desk.accept(rater, first)
    undo = Withdrawal(rating_id=str(uuid.uuid4()), voids=first.rating_id)
    assert [desk.undo(rater, undo).stored for _ in range(2)] == [True, False]
    assert desk.progress()["done"] == 0
    assert desk.next_tasks(rater, 1)["tasks"][0]["task_id"] == task["task_id"]
    assert desk.accept(rater, submission(task, "tie")).stored
    assert [found.outcome for found in desk.store.comparisons(1)] == ["tie"]


def test_nobody_undoes_what_somebody_else_rated(desk: RatingDesk) -> None:
    anna, bo = desk.join("Anna").rater_id, desk.join("Bo").rater_id
    rating = submission(desk.next_tasks(anna, 1)["tasks"][0])
    desk.accept(anna, rating)
    with pytest.raises(Refused) as refusal:
        desk.undo(bo, Withdrawal(rating_id=str(uuid.uuid4()), voids=rating.rating_id))
    assert refusal.value.status == 404
    assert len(desk.store.comparisons(1)) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rating: {"rating_id": "1"},
        lambda rating: {"task_id": "t9"},
        lambda rating: {"kind": "likert"},
        lambda rating: {"payload": {"choice": "best"}},
        lambda rating: {"payload": {}},
        lambda rating: {"image_ids": [rating["image_ids"][0]] * 2},
        lambda rating: {"rater_id": "somebody else"},
    ],
)
def test_a_rating_that_does_not_fit_is_refused_and_leaves_no_trace(
    desk: RatingDesk, spoil: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    rater = desk.join("Anna").rater_id
    task = desk.next_tasks(rater, 1)["tasks"][0]
    with pytest.raises((Refused, ConfigError)):
        desk.accept(rater, submission(task, **spoil(task)))
    assert desk.store.ratings() == []


@pytest.mark.parametrize("stage", ["draw", "fit", "train", "evaluate", "report"])
def test_while_the_machine_works_nobody_is_handed_a_task(desk: RatingDesk, stage: str) -> None:
    rater = desk.join("Anna").rater_id
    desk.live.enter(stage, "working", total=40)
    desk.live.advance(10)
    seen = desk.next_tasks(rater, 3)
    assert (seen["state"], seen["tasks"]) == ("machine", [])
    assert seen["live"]["headline"].startswith("The machine is ")
    assert (seen["live"]["done"], seen["live"]["total"]) == (10, 40)
    desk.live.enter("rate", "Waiting for ratings")
    assert desk.next_tasks(rater, 3)["state"] == "rating"


def test_a_rater_who_has_rated_all_waits_and_is_told_how_much_they_did(desk: RatingDesk) -> None:
    rater = desk.join("Anna").rater_id
    for task, choice in zip(desk.next_tasks(rater, 3)["tasks"], ("left", "tie", "both_bad"), strict=True):
        desk.accept(rater, submission(task, choice))
    seen = desk.next_tasks(rater, 3)
    assert seen["state"] == "machine"
    assert (seen["progress"]["done"], seen["progress"]["needed"], seen["progress"]["mine"]) == (3, 3, 3)
    desk.live.enter("finished", "Done")
    assert desk.next_tasks(rater, 3)["state"] == "finished"


def test_a_rating_that_comes_after_its_lease_ran_out_is_kept(desk: RatingDesk) -> None:
    """A browser that was offline replays its ratings much later."""
    rater = desk.join("Anna").rater_id
    task = desk.next_tasks(rater, 1)["tasks"][0]
    desk.release(rater, [task["task_id"]])
    desk.live.enter("train", "working")
    assert desk.accept(rater, submission(task)).stored


@pytest.mark.parametrize(("sent", "kept"), [(-1, 0), (900, 900), (86_400_001, 86_400_000), (10**15, 86_400_000)])
def test_a_pair_left_open_for_days_can_still_be_rated(desk: RatingDesk, sent: int, kept: int) -> None:
    """A day has 24 * 60 * 60 * 1000 = 86,400,000 ms."""
    rater = desk.join("Anna").rater_id
    task = desk.next_tasks(rater, 1)["tasks"][0]
    assert desk.accept(rater, submission(task, dwell_ms=sent)).stored
    assert [rating.dwell_ms for rating in desk.store.ratings()] == [kept]


def test_an_odd_clock_loses_no_rating(desk: RatingDesk) -> None:
    rater = desk.join("Anna").rater_id
    tasks = desk.next_tasks(rater, 2)["tasks"]
    assert desk.accept(rater, submission(tasks[0], client_time="yesterday")).stored
    assert desk.accept(rater, submission(tasks[1], client_time="1970-01-01T00:00:00Z")).stored


def test_how_a_task_was_shown_is_kept_and_what_nobody_knows_is_left_out(desk: RatingDesk) -> None:
    rater = desk.join("Anna").rater_id
    first, second = desk.next_tasks(rater, 2)["tasks"]
    told = {"decide_ms": 640, "input_device": "keyboard", "screen_size": "large", "shown_as": "original"}
    odd = {"decide_ms": -5, "input_device": "voice", "screen_size": "", "shown_as": "sketch"}
    for task, sent in ((first, told), (second, odd)):
        assert desk.accept(rater, submission(task, **sent)).stored
    kept = [(each.decide_ms, each.input_device, each.screen_size, each.shown_as) for each in desk.store.ratings()]
    assert kept == [(640, "keyboard", "large", "original"), (0, None, None, None)]


def test_a_rater_cannot_tell_a_check_from_a_task(desk: RatingDesk) -> None:
    """On the wire both look alike, and the answer to either moves the count that the page shows by one.

    Of three gold tasks among three others, one is due after every task, and none after the last.
    """
    task = desk.store.tasks()[0]
    gold = replace(task, purpose="gold", worse=task.image_ids[0])
    desk.store.add_tasks(replace(gold, task_id=f"t{number}") for number in range(3, 6))
    rater = desk.join("Anna").rater_id
    while desk.next_tasks(rater, 1)["tasks"]:
        seen = desk.next_tasks(rater, 1)
        assert set(seen["tasks"][0]) == TOLD
        assert "checks" not in seen["progress"]
        assert desk.accept(rater, submission(seen["tasks"][0])).stored
        assert desk.next_tasks(rater, 1)["progress"]["done"] == seen["progress"]["done"] + 1
    found = desk.progress()
    assert (found["done"], found["needed"], found["checks"]) == (3, 3, 2)
