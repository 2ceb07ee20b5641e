"""`hitl export`: all comparisons as one table."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.store import Store
from data.workspace import Workspace, write_atomically
from hitl.commands.reading import open_for_reading
from hitl.core.errors import ConfigError, NotEnoughRatings

FORMATS = ("parquet", "jsonl")


def run(out: Path, format: str, number: int, workspace: Path | None) -> None:
    chosen = format or out.suffix.lstrip(".")
    if chosen not in FORMATS:
        raise ConfigError(
            f"The format {chosen!r} is not known.", hint=f"Use --format with one of: {', '.join(FORMATS)}."
        )
    folder = Workspace.find(workspace)
    with open_for_reading(folder) as store:
        rows = comparison_rows(folder, store, number or None)
    if not rows:
        raise NotEnoughRatings("There are no comparisons to export.", hint=f"Rate first: hitl round -w {folder.root}")
    write_atomically(out, to_parquet(rows) if chosen == "parquet" else to_jsonl(rows))
    print(f"{len(rows)} comparisons in {out}")


def comparison_rows(folder: Workspace, store: Store, number: int | None) -> list[dict[str, Any]]:
    """One dict per comparison; raters are numbered, not named."""
    tags = {prompt.prompt_id: (prompt.task, prompt.split) for prompt in store.prompts()}
    raters = {rater.rater_id: f"rater-{i:03d}" for i, rater in enumerate(store.raters(), 1)}
    return [
        {
            "round": found.round,
            "task_id": found.task_id,
            "prompt": found.prompt,
            "task": tags[found.prompt_id][0],
            "split": tags[found.prompt_id][1],
            "rater": raters[found.rater_id],
            "image_a": str(folder.image_path(found.image_a).relative_to(folder.root)),
            "image_b": str(folder.image_path(found.image_b).relative_to(folder.root)),
            "outcome": found.outcome,
            "both_bad": found.both_bad,
            "left": found.left,
        }
        for found in store.comparisons(number)
    ]


def to_parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def to_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
