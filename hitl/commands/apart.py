"""A stage run outside any round, for a command: in a worker, in a folder of its own."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.workspace import Workspace, write_atomically
from hitl.config import RunConfig
from hitl.core.errors import WorkspaceError
from hitl.worker import Worker

_LEFTOVERS = ("spec.json", "result.json", "metrics.jsonl")


def new_folder(out: Path) -> Path:
    """A folder that a person named for a result, made absolute.

    Raises:
        WorkspaceError: there is something in it, or it is a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WorkspaceError(f"{out} is there already and not empty.", hint="Name another folder with --out.")
    return out.absolute()


def run_apart(
    stage: str, folder: Workspace, config: RunConfig, place: Path, *, round: int, inputs: dict[str, Any], doing: str
) -> dict[str, Any]:
    """The stage's result; its other files are in `place`. `round` is up to which one it knows.

    Raises:
        HitlError: as the stage does.
    """
    spec = {
        "stage": stage,
        "workspace": str(folder.root),
        "round": round,
        "config": asdict(config),
        "inputs": inputs,
        "apart": str(place),
    }
    write_atomically(place / "spec.json", json.dumps(spec).encode())
    worker = Worker()

    def show(row: dict[str, Any]) -> None:
        if sys.stderr.isatty():
            end = "\n" if row["step"] == row["total"] else ""
            print(f"\r{doing}: {row['step']}/{row['total']}", end=end, file=sys.stderr, flush=True)

    try:
        worker.run(place / "spec.json", place / "metrics.jsonl", show)
        return json.loads((place / "result.json").read_text())
    finally:
        worker.stop()
        for leftover in _LEFTOVERS:
            (place / leftover).unlink(missing_ok=True)
