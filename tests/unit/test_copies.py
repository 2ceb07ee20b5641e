"""Backups and exports are remembered, whoever makes them."""

import threading
from datetime import UTC, datetime
from pathlib import Path

from data.copies import Copy, copies, note_copy
from data.workspace import Workspace


def a_copy(number: int) -> Copy:
    made_at = datetime(2026, 11, 29, 12, number, tzinfo=UTC)
    return Copy(kind="backup", path=Path(f"/elsewhere/{number} ü.tar"), made_at=made_at, seq=number, has_names=True)


def test_what_was_noted_is_read_back(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert copies(workspace) == []
    for number in range(3):
        note_copy(workspace, a_copy(number))
    assert copies(workspace) == [a_copy(number) for number in range(3)]
    assert workspace.copies_path.stat().st_mode & 0o077 == 0


def test_a_line_cut_short_hides_no_other(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    note_copy(workspace, a_copy(1))
    with workspace.copies_path.open("a") as file:
        file.write('{"kind": "back\n')
    note_copy(workspace, a_copy(2))
    assert [copy.seq for copy in copies(workspace)] == [1, 2]


def test_many_at_once_lose_none(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    threads = [threading.Thread(target=note_copy, args=(workspace, a_copy(number))) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(copy.seq for copy in copies(workspace)) == [*range(20)]
