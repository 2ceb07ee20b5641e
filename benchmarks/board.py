"""How long the board takes to open and to renew itself, with 100 raters and 10,000 ratings.

    python -m benchmarks.board --out benchmarks/results/board.json

A store is filled with the ratings of a simulated crowd. Timed are: all that the board works out of it, in a thread of
its own and at most every 15 s; how long the first page waits for that; and what an open page waits for every 15 s.
"""

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from apps.board import panels
from apps.board.decisions import last_decisions
from apps.board.findings import Finder, find
from benchmarks.crowd import Crowd, crowd
from benchmarks.machine import describe
from data.records import Image, Prompt, Task
from data.store import Store
from data.workspace import Workspace

_OVERLAP = 2
_PROMPTS = 200
_CHECKED = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raters", type=int, default=100)
    parser.add_argument("--ratings", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), raters=arguments.raters, ratings=arguments.ratings)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")


def measure(folder: Path, *, raters: int, ratings: int) -> dict[str, Any]:
    with Store.open(Workspace(folder), create=True) as store:
        given = fill(store, raters=raters, ratings=ratings)
        worked_out = _timed(lambda: find(store, 1))
        finder = Finder(store)
        opened = time.perf_counter()
        while finder.latest(1) is None:
            pass
        first_s = time.perf_counter() - opened
        rater = store.raters()[0]

        def page() -> None:
            found = finder.latest(1)
            panels.overview(found)
            panels.raters(found, everybody=True, chosen=None)

        return {
            "raters": raters,
            "ratings": given,
            "worked_out_s": worked_out,
            "first_page_s": round(first_s, 3),
            "page_s": _timed(page),
            "last_decisions_s": _timed(lambda: last_decisions(store, rater)),
            "page_kb": round(len(panels.raters(finder.latest(1), everybody=True, chosen=None)) / 1000),
            "machine": describe(),
        }


def fill(store: Store, *, raters: int, ratings: int) -> int:
    """Pairs of their own images, each rated by two; repeats and gold beside. Returns how many ratings."""
    prompts = [Prompt.of(f"prompt number {number}") for number in range(_PROMPTS)]
    tasks, images = [], []
    for number in range(round(ratings / _OVERLAP)):
        prompt = prompts[number % _PROMPTS]
        pair = [hashlib.sha256(f"{number}{side}".encode()).hexdigest() for side in "ab"]
        images += [
            Image(
                image_id=each, prompt_id=prompt.prompt_id, round=1, width=64, height=64, provenance={"policy_round": 0}
            )
            for each in pair
        ]
        tasks.append(
            Task(
                task_id=f"t{number:05d}",
                round=1,
                kind="pairwise",
                prompt_id=prompt.prompt_id,
                image_ids=(pair[0], pair[1]),
                overlap=_OVERLAP,
            )
        )
    people = Crowd(store, crowd(raters))
    asked = people.add_tasks(1, prompts, images, tasks, checks=round(_CHECKED * ratings / raters))
    return people.rate(asked, begin=datetime.now(UTC) - timedelta(hours=6), hours=5.9)


def _timed(call: Callable[[], Any], times: int = 5) -> dict[str, float]:
    """Seconds: the median and the most of so many calls."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return {"median": round(statistics.median(taken), 3), "most": round(max(taken), 3)}


if __name__ == "__main__":
    main()
