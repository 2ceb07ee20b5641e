"""How fast the store is, and how that changes as it grows from ten thousand ratings to ten million.

    python -m benchmarks.store --out benchmarks/results/store.json --figure docs/images/store.png

At each size a store is made (`benchmarks.store_world`), and timed in a process of its own are: a rating, until it is
durable in journal and store; the choice of a rater's next tasks; the snapshot that training reads; `hitl export` of all
comparisons as one table; the rebuild from the journal. The baseline for a durable rating is what the disk takes to
write as much and sync it, twice, as those two do.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from data.exports.tables import ENDINGS

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
PARTS = ("rate", "snapshot", "export", "rebuild")
LARGEST_REBUILD = 1_000_000
"""The journal of ten million ratings would be 10 GB."""
AIMS = {"insert_ms": 5, "tasks_ms": 10, "snapshot_s": 5, "export_rows_s": 50_000, "rebuild_s": 60}
"""Half of the inserts, at any size; 95 % of choices, at ten million; snapshot, export and rebuild of one million."""
_LINE = b"x" * 900
"""About as long as a rating's line in the journal."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--work", type=Path, help="Folder for the stores, on the disk to be measured. Default: a temporary one."
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"sizes": {}, "aims": AIMS, "machines": {}}
    if arguments.out and arguments.out.exists():  # parts that are not measured now stay
        result = json.loads(arguments.out.read_text())
    result["machines"] |= dict.fromkeys(arguments.only, describe())
    for size in sorted(arguments.sizes):
        with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
            result["sizes"].setdefault(str(size), {}).update(measure(Path(folder), size, arguments.only))
        print(json.dumps({size: result["sizes"][str(size)]}), flush=True)
        if arguments.out:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.figure:
        draw(result, arguments.figure)


def measure(folder: Path, size: int, parts: tuple[str, ...]) -> dict[str, Any]:
    found = {}
    if any(part != "rebuild" for part in parts):
        found = {"disk_ms": _two_syncs(folder), "make": _worker("make", size, folder)}
    for part in parts:
        if part != "rebuild" or size <= LARGEST_REBUILD:
            found[part] = _worker(part, size, folder)
    return found


def _worker(part: str, size: int, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.store_worker", part, str(size), str(folder)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _two_syncs(folder: Path, times: int = 200) -> dict[str, float]:
    """Milliseconds that the disk takes for as much as one rating writes."""
    taken = []
    with (folder / "one").open("ab") as one, (folder / "other").open("ab") as other:
        for _ in range(times):
            started = time.perf_counter()
            for file in (one, other):
                file.write(_LINE)
                file.flush()
                os.fsync(file.fileno())
            taken.append(1000 * (time.perf_counter() - started))
    return {"p50": round(statistics.median(taken), 2), "p95": round(statistics.quantiles(taken, n=20)[-1], 2)}


def draw(result: dict[str, Any], path: Path) -> None:
    """Each figure against the size of the store, with what was aimed at as a dashed line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from benchmarks.figure import MUTED, ORANGE, STYLE, TEAL

    insert = {p: ("rate", "insert_ms", p) for p in ("p50", "p95")} | {"two syncs, p50": ("disk_ms", "p50")}
    panels: tuple[tuple[str, dict[str, tuple[str, ...]], str], ...] = (
        ("A durable rating, ms", insert, "insert_ms"),
        ("A rater's next tasks, ms", {p: ("rate", "tasks_ms", p) for p in ("p50", "p95")}, "tasks_ms"),
        ("Snapshot, s", {"": ("snapshot", "seconds")}, "snapshot_s"),
        ("Export, rows/s", {ending: ("export", ending, "rows_s") for ending in ENDINGS}, "export_rows_s"),
        ("Rebuild from the journal, s", {"": ("rebuild", "seconds")}, "rebuild_s"),
    )
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(15, 3.2), layout="constrained")
        for axis, (title, lines, aim) in zip(axes, panels, strict=True):
            for (label, keys), colour in zip(lines.items(), (TEAL, ORANGE, MUTED), strict=False):
                points = [(int(size), _of(found, keys)) for size, found in result["sizes"].items()]
                points = [(size, value) for size, value in points if value is not None]
                axis.plot(*zip(*points, strict=True), "o-", color=colour, label=label, markersize=4)
            axis.axhline(AIMS[aim], color=MUTED, linestyle="--", linewidth=0.8)
            axis.set(title=title, xscale="log", yscale="log", xlabel="ratings in the store")
            if len(lines) > 1:
                axis.legend(frameon=False, fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)


def _of(found: dict[str, Any], keys: tuple[str, ...]) -> float | None:
    for key in keys:
        if key not in found:
            return None
        found = found[key]
    return float(found)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
