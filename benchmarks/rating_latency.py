"""How long a person waits until a rating is on the disk: on a machine at rest, and while training loads every core.

    python -m benchmarks.rating_latency --out benchmarks/results/rating_latency.json

Two hubs: one waits for people's ratings, which this program gives one after another as a fast hand would (a steady 3
in a second); the other, in a workspace of its own, trains. An acknowledgement is timed from the request's first byte to
the answer's last: the server answers only when the rating is committed. The baseline is the machine at rest, in the
same run.
"""

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks.machine import describe
from data.workspace import Workspace

TARGET_MS = 150.0
_INTERVAL_S = 1 / 3
_PATIENCE_S = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", type=int, default=200, help="ratings per condition")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments.ratings)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")


def measure(folder: Path, count: int) -> dict[str, Any]:
    rated, trained = Workspace(folder / "rated"), Workspace(folder / "trained")
    # Twice as many tasks as will be rated: the round must not end under the benchmark's hands.
    people = _rounds(
        rated, "human", "--set", f"rate.ratings_per_round={4 * count}", "--set", "draw.images_per_prompt=8"
    )
    with people, _Client(rated) as client:
        at_rest = client.rate(count)
        with _rounds(trained, "simulated:2", "--set", "train.epochs=1000"):
            _wait(lambda: _is_training(trained))
            load = Path("/proc/loadavg").read_text().split()[0]
            under_training = client.rate(count)
            still_training = _is_training(trained)
    if not still_training:
        raise SystemExit("error: the training ended before the ratings did.\nhint:  Ask for fewer --ratings.")
    return {
        "what": "milliseconds until a rating is acknowledged as stored",
        "command": "python -m benchmarks.rating_latency",
        "machine": describe(),
        "at_rest": _describe(at_rest),
        "under_training": _describe(under_training),
        "load_1min_when_training_began": float(load),
        "ratio_of_p95": round(_quantile(under_training, 95) / _quantile(at_rest, 95), 2),
        "target_p95_ms": TARGET_MS,
        "within_target": _quantile(under_training, 95) <= TARGET_MS,
    }


class _Client:
    """A rater with a browser's session."""

    def __init__(self, workspace: Workspace) -> None:
        _wait(workspace.hub_path.exists)
        url = json.loads(workspace.hub_path.read_text())["url"]
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)
        text = self._http.get("/api/welcome").json()
        joining = {"name": "benchmark", "consent": text["version"], "language": text["language"]}
        self._http.post("/api/join", json=joining).raise_for_status()

    def __enter__(self) -> "_Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def rate(self, count: int) -> list[float]:
        """Milliseconds of each of `count` ratings."""
        times = []
        while len(times) < count:
            due = time.perf_counter() + _INTERVAL_S
            tasks = self._http.get("/api/tasks", params={"limit": 1}).raise_for_status().json()["tasks"]
            if not tasks:  # the round is still drawing
                time.sleep(0.5)
                continue
            for path in tasks[0]["images"]:
                self._http.get(f"/{path}").raise_for_status()
            body = {
                "rating_id": str(uuid.uuid4()),
                "task_id": tasks[0]["task_id"],
                "kind": tasks[0]["kind"],
                "payload": {"choice": "left"},
                "image_ids": tasks[0]["image_ids"],
                "dwell_ms": 333,
                "client_time": datetime.now(UTC).isoformat(),
            }
            started = time.perf_counter()
            self._http.post("/api/ratings", json=body).raise_for_status()
            times.append(1000 * (time.perf_counter() - started))
            time.sleep(max(0.0, due - time.perf_counter()))
        return times


@contextlib.contextmanager
def _rounds(workspace: Workspace, raters: str, *settings: str) -> Iterator[None]:
    command = [sys.executable, "-m", "hitl.cli", "round", "--n", "1", "--raters", raters, "-w", str(workspace.root)]
    process = subprocess.Popen([*command, "--set", "server.port=0", *settings], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _is_training(workspace: Workspace) -> bool:
    """Between the first epoch and the end of the stage."""
    metrics = workspace.round_dir(1) / "metrics.jsonl"
    return metrics.exists() and '"stage": "train"' in metrics.read_text() and workspace.manifest(1, "train") is None


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not until():
        if time.monotonic() > deadline:
            raise SystemExit("error: the rounds did not get there.\nhint:  Run `hitl round --n 1` by hand and look.")
        time.sleep(0.2)


def _describe(times: list[float]) -> dict[str, float | int]:
    return {
        "ratings": len(times),
        "p50_ms": round(statistics.median(times), 1),
        "p95_ms": round(_quantile(times, 95), 1),
        "largest_ms": round(max(times), 1),
    }


def _quantile(times: list[float], percent: int) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[percent - 1]


if __name__ == "__main__":
    main()
