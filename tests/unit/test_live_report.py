"""A report for the page: written by another process, when its files changed and not more often than allowed."""

import os
import time

import pytest

from apps import live_report
from apps.live_report import LiveReports
from apps.session import Refused
from data.workspace import Workspace


def test_a_changed_round_is_told_anew_once_it_is_time(tmp_path, monkeypatch: pytest.MonkeyPatch):
    workspace, reports = Workspace(tmp_path / "mine"), LiveReports(Workspace(tmp_path / "mine"))
    folder = workspace.round_dir(1)
    folder.mkdir(parents=True)
    page = reports.read(1)
    assert b"not judged yet" in page
    written = (folder / "report.html").stat().st_mtime_ns
    monkeypatch.setattr(live_report, "_EVERY_S", 0.0)
    assert reports.read(1) == page
    assert (folder / "report.html").stat().st_mtime_ns == written  # nothing changed
    workspace.write_manifest(1, "draw", {"seconds": 10.0, "images": 96, "tasks": 48})
    later = time.time() + 5
    os.utime(workspace.stage_dir(1, "draw") / "manifest.json", (later, later))
    assert reports.read(1) != page
    assert (folder / "report.html").stat().st_mtime_ns > written


def test_what_cannot_be_written_is_told_in_words(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(Refused, match=r"The report cannot be written: There is no round 3 in mine\."):
        LiveReports(Workspace(tmp_path / "mine")).read(3)
