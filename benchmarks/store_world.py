"""Stores of any size, made by SQL or as a journal: rounds of 10,000 ratings of 1,000 images, and one that is open.

Rows that are made by SQL have no lines in the journal, which for ten million ratings would take an hour and 10 GB; it
holds what is recorded after them.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from data.database import Database
from data.journal import Journal
from data.records import Rater, Rating, Task
from data.store import Store
from data.workspace import Workspace

RATERS = 100
RATINGS_PER_ROUND = 10_000
OVERLAP = 2
TASKS_PER_ROUND = RATINGS_PER_ROUND // OVERLAP
IMAGES_PER_ROUND = 1_000
PROMPTS = 100
WHEN = datetime(2026, 11, 1, tzinfo=UTC)

_PROVENANCE = (
    '{"checkpoint": "rounds/0001/train/policy", "guidance": 5.0, "model": "starter", "policy_round": 1,'
    ' "sampler": "DDIM", "seed": 1234567890, "steps": 10, "versions": {"diffusers": "0.42.1", "torch": "2.11.0"}}'
)
# Of image, task and rating number `i`, in whichever round: the same in both ways of making them.
_STATEMENTS = (
    """
    INSERT INTO prompts
    SELECT 'p' || i, i, 'prompt number ' || i, 'count', 'train' FROM range($prompts) AS all_of(i)
    """,
    """
    INSERT INTO raters
    SELECT 'rater' || i, 'Rater ' || i, 'human', TIMESTAMP '2026-11-01' FROM range($raters) AS all_of(i)
    """,
    """
    INSERT INTO consents (rater_id, position, version, language, text, given_at)
    SELECT 'rater' || i, i, 'v1', 'en', 'text', TIMESTAMP '2026-11-01' FROM range($raters) AS all_of(i)
    """,
    """
    INSERT INTO rounds (number, state, started_at, config_sha)
    SELECT i + 1, 'finished', TIMESTAMP '2026-11-01' + to_minutes(i), 'sha' FROM range($rounds + 1) AS all_of(i)
    """,
    """
    INSERT INTO images (image_id, prompt_id, round, position, width, height, provenance)
    SELECT sha256('image ' || i), 'p' || (i % $prompts), i // $images + 1, i, 512, 512, $provenance
    FROM range(($rounds + 1) * $images) AS all_of(i)
    """,
    """
    INSERT INTO tasks (task_id, position, round, kind, prompt_id, image_ids, overlap, policy, propensity)
    SELECT
        format('r{:04d}-{:05d}', i // $tasks + 1, i % $tasks), i, i // $tasks + 1, 'pairwise', 'p' || (i % $prompts),
        [
            sha256('image ' || (i // $tasks * $images + i % $images)),
            sha256('image ' || (i // $tasks * $images + (i + $prompts) % $images))
        ],
        $overlap, 'random', 0.5
    FROM range(($rounds + 1) * $tasks) AS all_of(i)
    """,
    """
    INSERT INTO ratings (
        rating_id, position, task_id, rater_id, kind, payload, image_ids, dwell_ms, client_time, server_time,
        app_version, is_skip, is_undo
    )
    SELECT
        md5('rating ' || i), i, task_id, 'rater' || (i % $raters), 'pairwise', '{"choice": "left"}', image_ids, 4000,
        '2026-11-01T12:00:00+00:00', TIMESTAMP '2026-11-01' + to_milliseconds(i * 100), '0.1.0', FALSE, FALSE
    FROM range($rounds * $tasks * $overlap) AS all_of(i)
    JOIN tasks ON tasks.position = i // $overlap
    ORDER BY i
    """,
    """
    INSERT INTO outcomes
    SELECT rating_id, image_ids[1], image_ids[2], 'a', FALSE, 'a' FROM ratings
    """,
)
_VALUES = {
    "prompts": PROMPTS,
    "raters": RATERS,
    "images": IMAGES_PER_ROUND,
    "tasks": TASKS_PER_ROUND,
    "overlap": OVERLAP,
    "provenance": _PROVENANCE,
}


def fill(workspace: Workspace, ratings: int) -> None:
    """A store of so many ratings, a multiple of 10,000, and an open round after them."""
    Store.open(workspace, create=True).close()
    values = _VALUES | {"rounds": ratings // RATINGS_PER_ROUND}
    database = Database.open(workspace.store_path)
    with database.writing(), database.transaction() as writer:
        for statement in _STATEMENTS:
            used = {name: value for name, value in values.items() if f"${name}" in statement}
            writer.execute(statement, used)
    with database.writing():
        database.checkpoint()
    database.close()


def write_journal(workspace: Workspace, ratings: int) -> None:
    """The journal of so many ratings, with all that they speak of, and no store."""
    journal = Journal.open(workspace.journal_path)
    for event, facts in _facts(ratings):
        journal.append_all(event, facts, WHEN)
    journal.close()


def _facts(ratings: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    prompts = [
        {"prompt_id": f"p{i}", "text": f"prompt number {i}", "task": "count", "split": "train"} for i in range(PROMPTS)
    ]
    yield "prompts_added", [{"prompts": prompts}]
    yield "rater_added", [_as_fact(a_rater(i)) for i in range(RATERS)]
    for number in range(1, ratings // RATINGS_PER_ROUND + 1):
        yield "round_started", [{"number": number, "config_sha": "sha", "started_at": WHEN.isoformat()}]
        yield "images_added", [{"images": [_image(number, i) for i in range(IMAGES_PER_ROUND)]}]
        tasks = [a_task(number, i) for i in range(TASKS_PER_ROUND)]
        yield "tasks_added", [{"tasks": [_as_fact(task) for task in tasks]}]
        for first in range(0, TASKS_PER_ROUND, 1000):
            some = tasks[first : first + 1000]
            yield (
                "rating_added",
                [
                    _rating_fact(a_rating(task, f"rater{(2 * i + turn) % RATERS}"), task)
                    for i, task in enumerate(some, first)
                    for turn in range(OVERLAP)
                ],
            )


def a_rater(number: int) -> Rater:
    return Rater(rater_id=f"rater{number}", name=f"Rater {number}", kind="human", created_at=WHEN)


def a_task(round: int, number: int) -> Task:
    first = (round - 1) * IMAGES_PER_ROUND
    return Task(
        task_id=f"r{round:04d}-{number:05d}",
        round=round,
        kind="pairwise",
        prompt_id=f"p{number % PROMPTS}",
        image_ids=(
            _image_id(first + number % IMAGES_PER_ROUND),
            _image_id(first + (number + PROMPTS) % IMAGES_PER_ROUND),
        ),
        overlap=OVERLAP,
        propensity=0.5,
    )


def a_rating(task: Task, rater_id: str, *, at: datetime = WHEN) -> Rating:
    return Rating(
        rating_id=hashlib.md5(f"{task.task_id} {rater_id}".encode(), usedforsecurity=False).hexdigest(),
        task_id=task.task_id,
        rater_id=rater_id,
        kind="pairwise",
        payload={"choice": "left"},
        image_ids=task.image_ids,
        dwell_ms=4000,
        client_time="2026-11-01T12:00:00+00:00",
        server_time=at + timedelta(seconds=1),
        app_version="0.1.0",
    )


def _rating_fact(rating: Rating, task: Task) -> dict[str, Any]:
    return {**_as_fact(rating), "task_image_ids": list(task.image_ids)}


def _as_fact(record: Any) -> dict[str, Any]:
    """As the store puts it into the journal."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(record).items()}


def _image(round: int, number: int) -> dict[str, Any]:
    return {
        "image_id": _image_id((round - 1) * IMAGES_PER_ROUND + number),
        "prompt_id": f"p{number % PROMPTS}",
        "round": round,
        "width": 512,
        "height": 512,
        "provenance": json.loads(_PROVENANCE),
    }


def _image_id(number: int) -> str:
    return hashlib.sha256(f"image {number}".encode()).hexdigest()
