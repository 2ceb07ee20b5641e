"""What is done when nothing happens: once, after the last note; and the store's file made whole by it."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

import data.fact_log
from data.database import write_ahead_log
from data.idle import IdleTimer
from data.store import Store
from tests.facts import a_rating, a_store, a_task, everything


def wait_for(is_so: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_waits_for_the_last_note_and_calls_once_for_many():
    calls: list[float] = []
    timer = IdleTimer(1, lambda: lambda: calls.append(time.monotonic()))
    last = 0.0
    for _ in range(5):
        timer.note()
        last = time.monotonic()
        time.sleep(0.1)
    wait_for(lambda: bool(calls))
    assert 0.99 <= calls[0] - last < 6
    time.sleep(1.2)
    assert len(calls) == 1
    timer.note()
    wait_for(lambda: len(calls) == 2)
    timer.stop()


def test_what_was_stopped_calls_no_more_and_its_thread_ends():
    calls: list[int] = []
    timer = IdleTimer(0.05, lambda: lambda: calls.append(1))
    assert timer._thread is None
    timer.note()
    assert timer._thread is not None
    timer.stop()
    timer.note()
    timer._thread.join(10)
    assert not timer._thread.is_alive()
    assert calls == []


def test_a_quiet_store_folds_its_log_into_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data.fact_log, "CHECKPOINT_AFTER_IDLE_S", 0.2)
    one = a_task("one", overlap=2)
    workspace, store = a_store(tmp_path, one)
    log = write_ahead_log(workspace.store_path)
    with store:
        for rater in ("ann", "bob"):
            store.add_rating(a_rating(one, rater))
            assert log.exists()
            wait_for(lambda: not log.exists())
        before = everything(store)
        # A copy of the one file is the whole store. It is read by SQL elsewhere: this process has the live one open.
        code = "import shutil, sys; shutil.copy(*sys.argv[1:])"
        subprocess.run([sys.executable, "-c", code, workspace.store_path, tmp_path / "copy.duckdb"], check=True)
    with Store.open_snapshot(tmp_path / "copy.duckdb") as copy:
        assert everything(copy) == before


def test_a_store_that_is_closed_while_it_folds_is_closed_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Due all the time: opened, written and closed, again and again, with the thread at work in between."""
    monkeypatch.setattr(data.fact_log, "CHECKPOINT_AFTER_IDLE_S", 0.0)
    tasks = [a_task(f"t{number}") for number in range(8)]
    workspace, store = a_store(tmp_path, *tasks)
    for task in tasks:
        store.add_rating(a_rating(task, "ann"))
        store.close()
        with duckdb.connect(str(workspace.store_path), read_only=True) as connection:
            assert connection.execute("SELECT max(task_id) FROM ratings WHERE task_id = ?", [task.task_id]).fetchone()
        store = Store.open(workspace)
    assert len(store.ratings()) == len(tasks)
    store.close()


def test_a_process_ends_though_the_timer_waits(tmp_path: Path):
    code = """
import sys
from pathlib import Path
from tests.facts import a_store, a_task
a_store(Path(sys.argv[1]), a_task("one"))
"""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=25)
    assert time.monotonic() - started < data.fact_log.CHECKPOINT_AFTER_IDLE_S
