"""`hitl report`: write a round's report again."""

import json
from pathlib import Path

from data.at_work import Files
from data.workspace import Workspace
from hitl.report import build_report
from hitl.rounds import next_round


def run(number: int, workspace: Path | None, as_json: bool) -> None:
    folder = Workspace.find(workspace)
    with Files(folder).in_use():
        path = build_report(folder, number or _newest(folder))
    print(json.dumps({"round": int(path.parent.name), "path": str(path)}) if as_json else path)


def _newest(folder: Workspace) -> int:
    """The last round that is judged; where none is, the one that has begun."""
    number = next_round(folder)
    return number if number == 1 or folder.is_done(number, "evaluate") else number - 1
