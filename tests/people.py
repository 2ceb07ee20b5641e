"""What a person's browser does, for tests that speak to the API themselves."""

import uuid
from datetime import UTC, datetime
from typing import Any

import httpx


def agree(client: httpx.Client) -> None:
    """As somebody who is signed in: agree to what is kept."""
    texts = client.get("/api/welcome").raise_for_status().json()
    sent = {"version": texts["version"], "language": texts["language"]}
    client.post("/api/consent", json=sent).raise_for_status()


def answer(task: dict[str, Any], choice: str = "left", **changes: Any) -> dict[str, Any]:
    """A rating of a task as it was handed out, to be posted."""
    return {
        "rating_id": str(uuid.uuid4()),
        "task_id": task["task_id"],
        "kind": task["kind"],
        "payload": {"choice": choice},
        "image_ids": task["image_ids"],
        "dwell_ms": 700,
        "client_time": datetime.now(UTC).isoformat(),
        **changes,
    }
