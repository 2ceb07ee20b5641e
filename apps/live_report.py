"""The report of a round while it runs, for the researcher: written when somebody looks and something has changed."""

import subprocess
import sys
import threading
import time

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from apps.door import RESEARCHER_ONLY, Doorkeeper
from apps.session import Refused
from data.records import FINISHED
from data.store import Store
from data.workspace import STAGES, Workspace

_EVERY_S = 15.0
"""A page that shows an unfinished round loads itself again so often, and a report is written no more often."""
_LONGEST_S = 120.0


def add_live_report(app: FastAPI, store: Store, workspace: Workspace, door: Doorkeeper) -> None:
    """Route `/report`: of the newest round, or of another one, `/report?round=2`."""
    reports = LiveReports(workspace)

    @app.get("/report", response_model=None)
    def report(request: Request, round: int = 0) -> HTMLResponse:
        if not door.is_researcher(request):
            message, hint = RESEARCHER_ONLY
            raise Refused(message, hint=hint, status=403)
        known = {each.number: each for each in store.rounds()}
        number = round or max(known, default=0)
        if number not in known:
            raise Refused(
                f"There is no round {number}." if number else "No round has begun.",
                hint="Begin one: hitl round",
                status=404,
            )
        headers = {"Cache-Control": "no-store"}
        if known[number].state != FINISHED:
            headers["Refresh"] = f"{_EVERY_S:.0f}"
        return HTMLResponse(reports.read(number), headers=headers)


class LiveReports:
    """Reports as their rounds' files are now. Another process writes them: drawing plots would hold up who rates."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._tried: dict[int, float] = {}
        """When one was last written, by round, on the monotonic clock."""

    def read(self, number: int) -> bytes:
        """The page of that round.

        Raises:
            Refused: it could not be written.
        """
        path = self._workspace.round_dir(number) / "report.html"
        with self._lock:
            waited = time.monotonic() - self._tried.get(number, float("-inf"))
            if not path.exists() or (waited > _EVERY_S and _changed(self._workspace, number) > path.stat().st_mtime):
                self._write(number)
            try:
                return path.read_bytes()
            except OSError:  # the stage that has just ended took it away
                raise Refused("The report is being written.", hint="Load the page again.", status=503) from None

    def _write(self, number: int) -> None:
        command = [sys.executable, "-m", "hitl.report", str(self._workspace.root), str(number)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
            said = done.stderr if done.returncode else ""
        except subprocess.TimeoutExpired:
            said = f"it took longer than {_LONGEST_S:.0f} s"
        if said:
            raise Refused(
                f"The report cannot be written: {said.strip().splitlines()[-1]}",
                hint=f"`hitl report {number}` says more.",
                status=503,
            )
        self._tried[number] = time.monotonic()


def _changed(workspace: Workspace, number: int) -> float:
    """When the files that the report tells of last did."""
    stages = [workspace.stage_dir(number, stage) / "manifest.json" for stage in STAGES]
    later = workspace.stage_dir(number + 1, "rate") / "manifest.json"
    files = [workspace.round_dir(number) / "metrics.jsonl", later, *stages]
    return max((path.stat().st_mtime for path in files if path.exists()), default=0.0)
