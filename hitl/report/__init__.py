"""The report of a round: one HTML file that says whether it got better, by whose judgement, and how sure that is."""

from pathlib import Path

from data.workspace import Workspace


def build_report(workspace: Workspace, number: int) -> Path:
    """Write `report.html` and `report.json` into round `number`'s folder, from the files of rounds 1 to `number`.

    What is missing is left out and named in the report. The same files give the same bytes.

    Raises:
        WorkspaceError: there is no such round, or the disk is full.
    """
    from hitl.report.page import (
        write_report,
    )  # plots are drawn once a round; `hitl status` need not wait for matplotlib

    return write_report(workspace, number)
