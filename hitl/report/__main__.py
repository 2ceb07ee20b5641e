"""`python -m hitl.report WORKSPACE ROUND`: a report written by a process of its own, so that nobody who rates waits."""

import os
import sys
from pathlib import Path

from data.at_work import Files
from data.workspace import Workspace
from hitl.core.errors import HitlError
from hitl.report import build_report


def main(root: str, number: str) -> None:
    os.nice(10)
    workspace = Workspace(Path(root))
    try:
        with Files(workspace).in_use():
            build_report(workspace, int(number))
    except HitlError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main(*sys.argv[1:])
