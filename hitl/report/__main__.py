"""`python -m hitl.report WORKSPACE ROUND`: a report written by a process of its own, so that nobody who rates waits."""

import os
import sys
from pathlib import Path

from data.at_work import Files
from data.workspace import Workspace
from hitl.core.errors import HitlError
from hitl.report import build_report

os.nice(10)
workspace = Workspace(Path(sys.argv[1]))
try:
    with Files(workspace).in_use():
        build_report(workspace, int(sys.argv[2]))
except HitlError as error:
    sys.exit(error.message)
