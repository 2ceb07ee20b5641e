"""Five rounds from an empty folder, unattended: wall time, memory, where the time goes, and what the rounds achieved.

    python -m benchmarks.rounds --n 5 --raters simulated:3 --out benchmarks/results/rounds.json

The baseline, in the same run: best-of-4 of the reference under the learned reward, which needs no training at all.
The planted bias has so few prompts that a round draws too few pictures of it: after the rounds, outside their time, 32
more are drawn of each, with the reference and with the last policy.
Memory is the sum of the proportional set sizes of the hub and its worker, sampled every three seconds: the kernel walks
all their pages for it, and twice a second took a quarter of a core. `--grid FILE.png` draws the reference's pictures
above the last round's, from the same seeds, held-out prompts only.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import describe
from data.bootstrap import cluster_interval
from data.workspace import STAGES, Workspace
from data.world.captions import prompts
from data.world.verifier import judge
from hitl.config import load_config
from rl.families.loading import load_family
from rl.rollout import draw

_GRID_COLUMNS = 8
_BIAS_IMAGES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--raters", default="simulated:3")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--workspace", type=Path, help="keep the workspace here; default: a temporary folder")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--grid", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.workspace or Path(temporary) / "workspace"
        result = measure(root, arguments.n, arguments.raters, arguments.settings)
        result["planted_bias"] = planted_bias(Workspace(root), arguments.n)
        if arguments.grid:
            save_grid(Workspace(root), arguments.n, arguments.grid)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")


def measure(root: Path, count: int, raters: str, settings: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "hitl.cli", "round", "--n", str(count), "--raters", raters, "-w", str(root)]
    command += [part for setting in settings for part in ("--set", setting)]
    started = time.monotonic()
    process = subprocess.Popen(command)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(_memory(pid) for pid in _family(process.pid)))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=3.0)
    seconds = time.monotonic() - started
    if process.returncode:
        raise SystemExit(process.returncode)
    workspace = Workspace(root)
    rounds = [_round(workspace, number) for number in range(1, count + 1)]
    by_stage = {stage: sum(entry["seconds"][stage] for entry in rounds) for stage in STAGES}
    return {
        "machine": describe(),
        "command": " ".join(["hitl", *command[3:-4], *command[-4:]]).replace(str(root), "workspace"),
        "seconds": round(seconds, 1),
        "peak_memory_gib": round(peak / 2**30, 2),
        "seconds_by_stage": {stage: round(value, 1) for stage, value in by_stage.items()},
        "seconds_elsewhere": round(seconds - sum(by_stage.values()), 1),
        "share_of_training": round(by_stage["train"] / seconds, 3),
        "share_of_judging": round(by_stage["evaluate"] / seconds, 3),
        "share_of_judging_by_round": [
            round(entry["seconds"]["evaluate"] / sum(entry["seconds"].values()), 3) for entry in rounds
        ],
        "rounds": rounds,
    }


def _round(workspace: Workspace, number: int) -> dict[str, Any]:
    manifests = {stage: workspace.manifest(number, stage) or {} for stage in STAGES}
    summary = manifests["evaluate"]["summary"]
    fit = manifests["fit"]["report"]
    return {
        "number": number,
        "seconds": {stage: manifest["seconds"] for stage, manifest in manifests.items()},
        "comparisons": manifests["rate"]["comparisons"],
        "reward_accuracy": fit["accuracy"],
        "zero_shot_accuracy": fit["zero_shot"],
        "subjects": {
            subject: {
                split: {"all": found["all"], "bias": found["tasks"].get("bias", {})} for split, found in splits.items()
            }
            for subject, splits in summary["subjects"].items()
        },
        "gains": summary["gains"],
        "reference_taste_sd": summary["reference_taste_sd"],
    }


def planted_bias(workspace: Workspace, number: int) -> dict[str, Any]:
    """Exact verdicts of the reference and of that round's policy on the bias's prompts, sampled as a round does it."""
    config = load_config(workspace.round_dir(number) / "config.toml", [])
    family = load_family(config.model.name)
    found: dict[str, Any] = {}
    for subject in ("reference", "policy"):
        if subject == "policy":
            family.load_policy(workspace.policy_dir(number))
        for split in ("train", "held_out"):
            texts = [prompt.text for prompt in prompts("bias", split, 100)] * _BIAS_IMAGES
            pictures = draw(
                family,
                texts,
                steps=config.evaluate.steps,
                guidance=config.sample.guidance,
                seeds=[("benchmark", text, index) for index, text in enumerate(texts)],
                batch_size=config.sample.batch_size,
            )
            verdicts = [judge(p.numpy(), text) for p, text in zip(pictures.permute(0, 2, 3, 1), texts, strict=True)]
            exact = [float(verdict is not None and verdict.exact) for verdict in verdicts]
            found.setdefault(subject, {})[split] = cluster_interval(exact, texts).to_dict()
    return found


def save_grid(workspace: Workspace, number: int, path: Path) -> None:
    """Pairs of rows: the reference's pictures, and below them the policy's of that round."""
    with np.load(workspace.stage_dir(number, "evaluate") / "grid.npz") as grid:
        kept = grid["splits"] == "held_out"
        before, after = grid["reference"][kept], grid["policy"][kept]
    rows = []
    for start in range(0, len(before), _GRID_COLUMNS):
        for pictures in (before, after):
            row = np.concatenate(list(pictures[start : start + _GRID_COLUMNS]), axis=1)
            rows.append(np.pad(row, ((0, 0), (0, 64 * _GRID_COLUMNS - row.shape[1]), (0, 0)), constant_values=255))
        rows.append(np.full((8, 64 * _GRID_COLUMNS, 3), 255, np.uint8))
    Image.fromarray(np.concatenate(rows[:-1], axis=0)).save(path)


def _family(pid: int) -> list[int]:
    """The process and its children."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return found


def _memory(pid: int) -> int:
    """Proportional set size, in bytes; 0 when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
