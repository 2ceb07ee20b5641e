"""One measurement of `benchmarks.store` in a process of its own, so that its peak of memory is its own: JSON on stdout.

python -m benchmarks.store_worker PART RATINGS FOLDER
"""

import contextlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.store_world import (
    RATERS,
    a_rating,
    fill,
    write_journal,
)
from data.exports.tables import ENDINGS
from data.store import Store
from data.workspace import Workspace
from hitl.commands.export import Asked
from hitl.commands.export import run as run_export

_RATED = 400
"""Ratings that are timed, each after the request for the tasks that follow it."""
_OFFERED = 4
"""Tasks that a page asks for at a time."""


def make(workspace: Workspace, ratings: int) -> dict[str, Any]:
    """A store by SQL."""
    return {"seconds": _timed(lambda: fill(workspace, ratings)), "store_mb": _megabytes(workspace.store_path)}


def rate(workspace: Workspace, ratings: int) -> dict[str, Any]:
    """A hundred raters ask for tasks of the open round and answer one, in turn."""
    asked, added = [], []
    started = time.perf_counter()
    with Store.open(workspace) as store:
        opened = time.perf_counter() - started
        first = _timed(lambda: store.lease("rater0", limit=_OFFERED))
        for turn in range(_RATED):
            rater_id = f"rater{turn % RATERS}"
            offers: list[Any] = []
            asked.append(_timed(lambda r=rater_id, o=offers: o.extend(store.lease(r, limit=_OFFERED))))
            rating = a_rating(offers[0].task, rater_id, at=datetime.now(UTC))
            added.append(_timed(lambda given=rating: store.add_rating(given)))
    return {
        "open_s": round(opened, 3),
        "first_tasks_s": round(first, 3),
        "tasks_ms": _spread(asked),
        "insert_ms": _spread(added),
    }


def snapshot(workspace: Workspace, ratings: int) -> dict[str, Any]:
    """All comparisons as the Parquet file that training reads."""
    path = workspace.root / "snapshot.parquet"
    with Store.open(workspace) as store:
        before = _peak_mb()
        seconds = _timed(lambda: store.write_snapshot(path, up_to_round=10**6))
    return {"seconds": round(seconds, 2), "mb": _megabytes(path), "further_peak_mb": _peak_mb() - before}


def export(workspace: Workspace, ratings: int) -> dict[str, Any]:
    """`hitl export` of all comparisons as one table, with the paths of their images."""
    found = {}
    for ending in ENDINGS:
        path = workspace.root / f"comparisons.{ending}"
        with contextlib.redirect_stdout(None):
            seconds = _timed(lambda out=path: run_export(out, Asked(), workspace.root))
        found[ending] = {"seconds": round(seconds, 2), "rows_s": round(ratings / seconds), "mb": _megabytes(path)}
        path.unlink()
    return {**found, "peak_mb": _peak_mb()}


def rebuild(workspace: Workspace, ratings: int) -> dict[str, Any]:
    """The store from the journal alone."""
    elsewhere = Workspace(workspace.root / "from-journal")
    elsewhere.root.mkdir()
    written = _timed(lambda: write_journal(elsewhere, ratings))
    before = _peak_mb()
    seconds = _timed(lambda: Store.rebuild(elsewhere).close())
    with Store.open(elsewhere) as store:
        assert store.answers() == ratings
    return {
        "seconds": round(seconds, 1),
        "journal_mb": _megabytes(elsewhere.journal_path),
        "written_s": round(written, 1),
        "further_peak_mb": _peak_mb() - before,
    }


PARTS: dict[str, Callable[[Workspace, int], dict[str, Any]]] = {
    "make": make,
    "rate": rate,
    "snapshot": snapshot,
    "export": export,
    "rebuild": rebuild,
}


def _timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _spread(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: the median, and what 95 in a hundred are within."""
    return {
        "p50": round(1000 * statistics.median(seconds), 2),
        "p95": round(1000 * statistics.quantiles(seconds, n=20)[-1], 2),
    }


def _megabytes(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 1)


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    part, ratings, folder = sys.argv[1:]
    print(json.dumps(PARTS[part](Workspace(Path(folder)), int(ratings))))
