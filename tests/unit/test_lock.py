"""One process owns the store; and what a process that is killed at any moment leaves behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from data.journal import read_entries
from data.lock import Holder, StoreLock, holder
from data.store import Store
from data.workspace import Workspace
from hitl.core.errors import StoreError
from tests.facts import a_store, a_task

_HOLD = """
import sys, time
from pathlib import Path
from data.store import Store
from data.workspace import Workspace
Store.open(Workspace(Path(sys.argv[1])), create=True)
print("open", flush=True)
time.sleep(60)
"""

_RATE = """
import sys
from pathlib import Path
from data.store import Store
from data.workspace import Workspace
from tests.facts import a_rating
store = Store.open(Workspace(Path(sys.argv[1])))
while offers := store.lease("ann", limit=1):
    rating = a_rating(offers[0].task, "ann", image_ids=offers[0].image_ids)
    print("sent", rating.rating_id, flush=True)
    assert store.add_rating(rating)
    print("kept", rating.rating_id, flush=True)
"""


def _child(code: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)


def _read(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline()


def test_a_second_process_is_refused_and_told_who_and_a_killed_one_lets_go(tmp_path: Path):
    workspace = Workspace(tmp_path)
    with _child(_HOLD, tmp_path) as child:
        assert _read(child) == "open\n"
        with pytest.raises(StoreError, match=f"held by process {child.pid} ") as caught:
            Store.open(workspace)
        assert f"kill {child.pid}" in caught.value.hint
        with pytest.raises(StoreError, match="held by process"):
            Store.rebuild(workspace)
        found = holder(workspace.lock_path)
        assert found is not None
        assert found.pid == child.pid
        assert str(tmp_path) in found.command
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert holder(workspace.lock_path) is None
    Store.open(workspace).close()


def test_the_same_process_cannot_own_it_twice(tmp_path: Path):
    workspace, store = a_store(tmp_path)
    with store, pytest.raises(StoreError, match=f"process {os.getpid()}"):
        Store.open(workspace)
    Store.open(workspace).close()


def test_the_lock_outlives_readers_of_its_file_and_is_free_afterwards(tmp_path: Path):
    path = tmp_path / "store.lock"
    lock = StoreLock.acquire(path)
    path.read_bytes()  # would drop a POSIX record lock
    assert isinstance(holder(path), Holder)
    lock.release()
    lock.release()
    assert holder(path) is None
    assert holder(tmp_path / "none.lock") is None


def test_a_failed_opening_gives_the_lock_back(tmp_path: Path):
    workspace, store = a_store(tmp_path)
    store.close()
    journal = workspace.journal_path.read_bytes()
    workspace.journal_path.write_bytes(b"")
    with pytest.raises(StoreError):
        Store.open(workspace)
    workspace.journal_path.write_bytes(journal)
    Store.open(workspace).close()


def test_another_program_that_has_the_file_open_is_named(tmp_path: Path):
    workspace, store = a_store(tmp_path)
    store.close()
    code = "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]); print('open', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code, str(workspace.store_path)], stdout=subprocess.PIPE, text=True)
    with child:
        assert _read(child) == "open\n"
        with pytest.raises(StoreError, match=f"PID {child.pid}") as caught:
            Store.open(workspace)
        assert "close it there" in caught.value.hint
        child.kill()
    Store.open(workspace).close()


def test_no_acknowledged_rating_is_lost_when_the_process_is_killed(tmp_path: Path):
    """Killed after a number of acknowledgements, at once or while the next rating is on its way, again and again."""
    workspace, store = a_store(tmp_path, *(a_task(f"t{number:03d}") for number in range(120)))
    store.close()
    kept: list[str] = []
    sent: list[str] = []
    for round_number, count in enumerate((3, 8, 1, 15)):
        with _child(_RATE, tmp_path) as child:
            fresh = 0
            while fresh < count or (round_number % 2 and len(sent) == len(kept)):
                word, rating_id = _read(child).split()
                (kept if word == "kept" else sent).append(rating_id)
                fresh += word == "kept"
            child.kill()
            for line in child.stdout or ():
                word, rating_id = line.split()
                (kept if word == "kept" else sent).append(rating_id)
        if round_number == 2:
            with workspace.journal_path.open("ab") as file:
                file.write(b'{"at":"2026-11-20T12:00:00+00:00","data":{"app_ver')
    with Store.open(workspace) as store:
        found = [rating.rating_id for rating in store.ratings()]
        comparisons = store.comparisons()
    assert set(kept) <= set(found) <= set(sent)
    assert len(set(found)) == len(found) == len(comparisons)
    assert len({row.task_id for row in comparisons}) == len(found), "no task rated twice"
    journaled = [entry.data["rating_id"] for entry in read_entries(workspace.journal_path) if "rating_id" in entry.data]
    assert journaled == found
    with Store.rebuild(workspace) as store:
        assert [rating.rating_id for rating in store.ratings()] == found
    with duckdb.connect(str(workspace.store_path), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM comparisons").fetchall() == [(len(found),)]
