"""`hitl restore`: a workspace from a backup."""

import json
from pathlib import Path

from data.restore import restore_backup
from data.workspace import Workspace
from hitl.commands.db import in_words


def run(file: Path, replace: bool, workspace: Path | None, as_json: bool) -> None:
    folder = Workspace.find(workspace)
    made = restore_backup(file.expanduser().absolute(), folder, replace=replace)
    kept = str(made.kept) if made.kept else None
    faults = [f"{each.what} {each.hint}" for each in made.faults]
    if as_json:
        told = {"workspace": str(folder.root), "made_at": made.made_at, "events": made.events, "tables": made.counts}
        print(json.dumps({**told, "kept": kept, "faults": faults}, indent=2))
        return
    print(f"{folder.root} holds again what it held at {made.made_at}: {in_words(made.counts)}.")
    for fault in faults:
        print(f"As it was when the backup was made: {fault}")
    if kept:
        print(f"The workspace that was there is kept as {kept}.")
