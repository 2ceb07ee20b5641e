"""Small worlds of facts for the tests of the store: prompts, images and tasks that fit each other, and ratings."""

import hashlib
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.records import Image, Prompt, Rater, Rating, Task
from data.store import Store
from data.workspace import Workspace

WHEN = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
PROMPT = Prompt.of("a green heart", task="colour")


def image_id(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def an_image(name: object, *, round: int = 1, prompt: Prompt = PROMPT) -> Image:
    return Image(
        image_id=image_id(name),
        prompt_id=prompt.prompt_id,
        round=round,
        width=64,
        height=64,
        provenance={"seed": str(name)},
    )


def a_task(name: str, *, round: int = 1, overlap: int = 1, prompt: Prompt = PROMPT) -> Task:
    return Task(
        task_id=name,
        round=round,
        kind="pairwise",
        prompt_id=prompt.prompt_id,
        image_ids=(image_id(f"{name}-a"), image_id(f"{name}-b")),
        overlap=overlap,
    )


def a_rater(name: str) -> Rater:
    return Rater(rater_id=name, name=name.title(), kind="human", created_at=WHEN)


def a_rating(task: Task, rater_id: str, choice: str | None = "left", **changes: Any) -> Rating:
    """A rating with the images in canonical order; `choice=None` leaves the payload empty."""
    fields: dict[str, Any] = {
        "rating_id": str(uuid.uuid4()),
        "task_id": task.task_id,
        "rater_id": rater_id,
        "kind": task.kind,
        "payload": {} if choice is None else {"choice": choice},
        "image_ids": task.image_ids,
        "dwell_ms": 900,
        "client_time": "2026-11-20T13:00:00+01:00",
        "server_time": WHEN,
        "app_version": "0.1.0",
    }
    return Rating(**{**fields, **changes})


def fill(store: Store, *tasks: Task, raters: tuple[str, ...] = ("ann", "bob")) -> None:
    """Everything that the tasks need, and the tasks."""
    store.add_prompts([PROMPT])
    store.add_images(an_image(f"{task.task_id}-{side}", round=task.round) for task in tasks for side in "ab")
    store.add_tasks(tasks)
    for name in raters:
        store.add_rater(a_rater(name))


def a_store(folder: Path, *tasks: Task) -> tuple[Workspace, Store]:
    """An open store with these tasks in a new workspace."""
    workspace = Workspace(folder)
    store = Store.open(workspace, create=True)
    fill(store, *tasks)
    return workspace, store


def everything(store: Store) -> dict[str, Any]:
    """All facts of a store, to compare two of them."""
    return {
        "prompts": store.prompts(),
        "images": store.images(),
        "rounds": store.rounds(),
        "tasks": store.tasks(),
        "raters": store.raters(),
        "ratings": store.ratings(),
        "comparisons": store.comparisons(),
        "metrics": [[repr(row) for row in store.metrics(number)] for number in range(6)],
    }
