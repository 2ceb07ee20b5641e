"""Time and size of the report of five rounds: of the starter's pictures, and of photographs at 512 pixels.

python -m benchmarks.report --workspace runs/five --output benchmarks/results/report.json

The workspace has one finished round or more, of real ratings, fits and judgements; with fewer than five they are
repeated in turn. It is copied, and stays as it is. For the second case the pictures of every grid are replaced by
photo-like ones (their amplitudes fall as 1 / f), of as many prompts as PartiPrompts would show: 11 categories, 3 of
each, on both splits.
"""

import argparse
import io
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import describe
from data.workspace import Workspace
from tests.fixtures.large_pictures import photo_like_png

ROUNDS = 5
LIMIT_S, LIMIT_MB = 10.0, 15.0
LARGE_SIDE, LARGE_PROMPTS = 512, 66
_BUILD = (
    "import sys; from pathlib import Path; from data.workspace import Workspace; from hitl.report import build_report;"
    "build_report(Workspace(Path(sys.argv[1])), int(sys.argv[2]))"
)


def five_rounds(source: Workspace, place: Path) -> Workspace:
    """A copy with five rounds, those of the source in turn."""
    finished = [number for number in range(1, ROUNDS + 1) if source.is_done(number, "evaluate")]
    if not finished:
        raise SystemExit(
            f"error: no round of {source.root} is finished.\nhint:  Finish one: hitl round -w {source.root}"
        )
    copy = Workspace(place)
    for number in range(1, ROUNDS + 1):
        round = finished[(number - 1) % len(finished)]
        shutil.copytree(source.round_dir(round), copy.round_dir(number))
    (place / "images").symlink_to(source.root / "images")
    return copy


def with_photographs(workspace: Workspace) -> None:
    """Other pictures into every grid, as many as a large list of prompts would bring."""
    splits = ["held_out", "train"] * (LARGE_PROMPTS // 2)
    prompts = [f"a photograph, number {i}" for i in range(LARGE_PROMPTS)]
    for number in range(1, ROUNDS + 1):
        pixels = [
            np.stack([_photograph(seed + i) for i in range(LARGE_PROMPTS)]) for seed in (0, 1000 * number)
        ]  # the reference's are the same in all rounds
        path = workspace.stage_dir(number, "evaluate") / "grid.npz"
        np.savez(path, reference=pixels[0], policy=pixels[1], prompts=np.array(prompts), splits=np.array(splits))


def _photograph(seed: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(photo_like_png(LARGE_SIDE, seed))))


def measure(workspace: Workspace, runs: int) -> dict[str, object]:
    """Seconds of a whole process, imports included; the first run only warms the file cache."""
    seconds, processor = [], []
    for _ in range(runs + 1):
        started, used = time.perf_counter(), _processor_s()
        subprocess.run([sys.executable, "-c", _BUILD, str(workspace.root), str(ROUNDS)], check=True)
        seconds.append(time.perf_counter() - started)
        processor.append(_processor_s() - used)
    page = (workspace.round_dir(ROUNDS) / "report.html").read_bytes()
    return {
        "runs": runs,
        "median_s": round(statistics.median(seconds[1:]), 2),
        "processor_median_s": round(statistics.median(processor[1:]), 2),
        "megabytes": round(len(page) / 1e6, 2),
        "pictures": page.count(b"<img "),
        "plots": page.count(b"<svg "),
        "within_limits": statistics.median(seconds[1:]) <= LIMIT_S and len(page) <= 1e6 * LIMIT_MB,
    }


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the report of five rounds.")
    parser.add_argument("--workspace", type=Path, required=True, help="a workspace with a finished round")
    parser.add_argument("--runs", type=int, default=3, help="measured runs of each case")
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    arguments = parser.parse_args()
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        workspace = five_rounds(Workspace(arguments.workspace.absolute()), Path(folder) / "five")
        cases["starter, 64 pixels"] = measure(workspace, arguments.runs)
        with_photographs(workspace)
        cases[f"{LARGE_PROMPTS} prompts, {LARGE_SIDE} pixels"] = measure(workspace, arguments.runs)
    found = {
        "what": f"the report of {ROUNDS} rounds, in a process of its own",
        "command": "python -m benchmarks.report",
        "machine": describe(),
        "limits": {"seconds": LIMIT_S, "megabytes": LIMIT_MB},
        "cases": cases,
    }
    text = json.dumps(found, indent=2) + "\n"
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
