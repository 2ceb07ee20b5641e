"""`hitl report`: write a round's report again."""

import json
from pathlib import Path

from data.at_work import Files
from data.workspace import Workspace
from hitl.core.errors import WorkspaceError
from hitl.report import build_report
from hitl.rounds import next_round


def run(number: int, workspace: Path | None, as_json: bool) -> None:
    folder = Workspace.find(workspace)
    number = number or next_round(folder) - 1
    if number < 1 or not folder.is_done(number, "evaluate"):
        which = f"Round {number}" if number > 0 else "No round"
        raise WorkspaceError(
            f"{which} has been evaluated in {folder.root}." if number < 1 else f"{which} is not evaluated yet.",
            hint=f"Finish it first: hitl round -w {folder.root}",
        )
    with Files(folder).in_use():
        path = build_report(folder, number)
    print(json.dumps({"round": number, "path": str(path)}) if as_json else path)
