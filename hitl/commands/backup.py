"""`hitl backup`: the whole workspace in one file."""

import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from apps.session import app_version
from data.backup import write_backup
from data.workspace import Workspace
from hitl.commands.reading import copy_of_store


def run(out: Path | None, workspace: Path | None, as_json: bool) -> None:
    folder = Workspace.find(workspace)
    now = datetime.now(UTC)
    path = (out or Path(f"{folder.root.name}-{now:%Y%m%dT%H%M%SZ}.hitl.tar")).absolute()
    made = write_backup(folder, path, partial(copy_of_store, folder), app_version=app_version(), made_at=now)
    if as_json:
        told = {"path": str(path), "events": made.events, "files": made.files, "bytes": made.bytes}
        print(json.dumps({**told, "missing": list(made.missing)}, indent=2))
        return
    print(f"{path}: {made.files} files, {made.bytes / 2**20:.1f} MiB, {made.events} events of the journal.")
    for image_id in made.missing:
        print(f"missing: the file of image {image_id}")
    print("It holds the raters' names and the hashes of their passwords: keep it where only you can read it.")
